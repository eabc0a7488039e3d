import dataclasses
import json
from pathlib import Path

import pytest
import torch

from training.checkpoints import atomic_directory, checkpoint, stored_tensors
from training.checkpoints.checkpoint import Checkpoint
from training.checkpoints.optimizer_state import load_optimizer, optimizer_tensors
from training.checkpoints.stored_tensors import StoredTensors
from training.distributed.shards import Part


def state(update: int, fingerprint: str = "run") -> Checkpoint:
    weights = {"model": {"w": torch.full((2, 3), float(update))}, "random": {"cpu": torch.ones(4)}}
    return Checkpoint(update, fingerprint, weights, {"position": {"row": update}})


def test_what_was_saved_is_found_and_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, "run") is None
    for update in (1, 2, 30, 4):
        checkpoint.save(tmp_path, state(update))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["update-000000004", "update-000000030"]
    found = checkpoint.newest(tmp_path, "run")
    assert found is not None
    assert (found.update, found.fingerprint, found.state) == (30, "run", {"position": {"row": 30}})
    assert set(found.tensors) == {"model", "random"}
    assert torch.equal(found.tensors["model"]["w"], torch.full((2, 3), 30.0))


def test_another_run_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path, state(1, "mine"))
    another = dataclasses.replace(state(2, "another"), trained_on={"dataset": "v1"})
    checkpoint.save(tmp_path, another)
    found = checkpoint.newest(tmp_path, "mine")
    assert found is not None
    assert found.update == 1
    assert capsys.readouterr().err == ""
    assert checkpoint.newest(tmp_path, "third") is None
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {tmp_path}/update-000000002 on dataset v1 is of another")
    assert "begins at update 0" in warning
    assert "give another --output" in warning


def test_a_directory_torn_by_a_kill_is_ignored_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, state(1))

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoints.atomic_directory.os.fsync", killed)
        with pytest.raises(KilledError):
            checkpoint.save(tmp_path, state(2))
    assert len(list(tmp_path.iterdir())) == 2  # the torn one is there
    found = checkpoint.newest(tmp_path, "run")
    assert found is not None
    assert found.update == 1
    checkpoint.save(tmp_path, state(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["update-000000001", "update-000000002"]


def test_a_kill_between_the_renames_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "final"
    atomic_directory.write(target, {}, a_json="1")
    rename = Path.rename
    calls = []

    def once(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", once)
        with pytest.raises(KeyboardInterrupt):
            atomic_directory.write(target, {}, a_json="2")
    assert not target.exists()
    atomic_directory.write(target, {}, a_json="3")
    assert (target / "a.json").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_saving_the_same_update_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5, "old"))
    checkpoint.save(tmp_path, state(5, "new"))
    assert checkpoint.newest(tmp_path, "old") is None
    assert checkpoint.newest(tmp_path, "new") is not None


def test_clear(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoints", state(1))
    checkpoint.clear(tmp_path / "checkpoints")
    checkpoint.clear(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("file", ["model.00000.safetensors", "state.json", "sums.00000.json"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, state(1))
    checkpoint.save(tmp_path, state(2))
    path = tmp_path / "update-000000002" / file
    torn = bytearray(path.read_bytes())
    torn[len(torn) // 2] ^= 1
    path.write_bytes(torn if file.startswith("model") else torn[:-3])
    found = checkpoint.newest(tmp_path, "run")
    assert found is not None
    assert found.update == 1
    assert "update-000000002 is damaged" in capsys.readouterr().err


def test_another_runs_checkpoints_cost_this_run_none(tmp_path: Path) -> None:
    for update in (49_000, 50_000):
        checkpoint.save(tmp_path, dataclasses.replace(state(update, "old"), score=0.1))
    for update, score in ((1, 2.0), (2, 3.0), (3, 4.0)):
        checkpoint.save(tmp_path, dataclasses.replace(state(update, "new"), score=score))
    found = checkpoint.newest(tmp_path, "new")
    assert found is not None
    assert found.update == 3
    assert checkpoint.best_score(tmp_path, "new") == 2.0
    assert json.loads((tmp_path / checkpoint.BEST).read_text())["checkpoint"] == "update-000000001"
    assert checkpoint.newest(tmp_path, "old") is not None


def test_the_best_is_named_and_outlives_the_newest(tmp_path: Path) -> None:
    assert checkpoint.best_score(tmp_path, "run") == float("inf")
    for update, score in enumerate([3.0, 1.0, None, 2.0, 2.5], 1):
        checkpoint.save(tmp_path, dataclasses.replace(state(update), score=score))
    kept = sorted(p.name for p in tmp_path.glob("update-*"))
    assert kept == ["update-000000002", "update-000000004", "update-000000005"]
    best = json.loads((tmp_path / checkpoint.BEST).read_text())
    assert best == {"checkpoint": "update-000000002", "score": 1.0}
    assert checkpoint.best_score(tmp_path, "run") == 1.0
    checkpoint.save(tmp_path, dataclasses.replace(state(6), score=0.5), keep=1)
    assert [p.name for p in tmp_path.glob("update-*")] == ["update-000000006"]


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    for update, score in enumerate([float("nan"), 1.0, 0.5, float("inf"), 0.9], 1):
        checkpoint.save(tmp_path, dataclasses.replace(state(update), score=score))
    best = json.loads((tmp_path / checkpoint.BEST).read_text())
    assert best == {"checkpoint": "update-000000003", "score": 0.5}
    assert checkpoint.best_score(tmp_path, "run") == 0.5


def test_what_is_half_removed_passes_for_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for update in (1, 2):
        checkpoint.save(tmp_path, state(update))

    def killed(going: Path) -> None:
        (going / checkpoint.STATE).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoints.checkpoint.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, state(3))
    kept = {p.name for p in tmp_path.glob("update-*")}
    assert kept == {"update-000000002", "update-000000003"}
    checkpoint.save(tmp_path, state(4))
    assert {p.name for p in tmp_path.iterdir()} == {"update-000000003", "update-000000004"}


def test_a_disk_that_takes_no_more_is_a_failure_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none/a\.safetensors cannot be written: "):
        atomic_directory.write_tensors(tmp_path / "none" / "a.safetensors", {"a": torch.ones(2)})


def test_parts_of_several_processes_are_one_tensor_again(tmp_path: Path) -> None:
    whole = torch.arange(21.0).view(7, 3)
    for rank, (start, stop) in enumerate([(0, 3), (3, 6), (6, 7), (7, 7)]):
        held = {"w": Part(whole[start:stop], 0, start)}
        extra = {"step": torch.tensor(5.0)} if rank == 0 else {}
        stored_tensors.write(tmp_path / f"model.{rank:05d}.safetensors", {**held, **extra})
    stored = StoredTensors(sorted(tmp_path.iterdir()))
    assert torch.equal(stored["w"], whole)
    assert stored["step"] == 5
    for start, stop in [(0, 4), (2, 7), (5, 6), (7, 7)]:
        part = torch.zeros(stop - start, 3)
        stored.into("w", Part(part, 0, start))
        assert torch.equal(part, whole[start:stop])
    for start, stop in [(0, 2), (1, 3), (3, 3)]:  # split another way than it was
        part = torch.zeros(7, stop - start)
        stored.into("w", Part(part, 1, start))
        assert torch.equal(part, whole[:, start:stop])
    number = torch.zeros(())
    stored.into("step", number)
    assert number == 5


def test_a_part_that_nobody_wrote_is_an_error(tmp_path: Path) -> None:
    stored_tensors.write(tmp_path / "a.safetensors", {"w": Part(torch.ones(2, 3), 0, 0)})
    stored_tensors.write(tmp_path / "b.safetensors", {"w": Part(torch.ones(2, 3), 0, 4)})
    stored = StoredTensors(sorted(tmp_path.iterdir()))
    with pytest.raises(ValueError, match="w: 6 of its numbers are not stored"):
        stored.into("w", torch.zeros(5, 3))


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    # Channels last, as the dVAE has it: the optimiser's state must follow.
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    step(model, optimizer, range(steps))
    return model, optimizer


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for i in steps:
        optimizer.zero_grad()
        model(
            torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(i))
        ).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("steps", [0, 6])  # 0: every update so far was skipped
def test_the_optimizer_goes_on_as_if_never_stopped(steps: int, tmp_path: Path) -> None:
    whole, _ = trained(10)
    model, optimizer = trained(steps)
    names = {p: name for name, p in model.named_parameters()}
    groups = {
        "model": dict(model.named_parameters()),
        "optimizer": optimizer_tensors(optimizer, names),
    }
    checkpoint.save(tmp_path, Checkpoint(steps, "run", groups, {}))
    found = checkpoint.newest(tmp_path, "run")
    assert found is not None

    resumed, fresh = trained(0)
    resumed.load_state_dict(dict(found.tensors["model"]))
    load_optimizer(fresh, {p: name for name, p in resumed.named_parameters()}, found)
    step(resumed, fresh, range(steps, 10))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
