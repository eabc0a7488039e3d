from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from training import checkpoint
from training.checkpoint import Checkpoint


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


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1, "mine"))
    checkpoint.save(tmp_path, state(2, "another"))
    found = checkpoint.newest(tmp_path, "mine")
    assert found is not None
    assert found.update == 1
    assert checkpoint.newest(tmp_path, "third") is None


def test_a_directory_torn_by_a_kill_is_ignored_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, state(1))

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoint.os.fsync", killed)
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
    checkpoint.write_directory(target, {}, a_json="1")
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
            checkpoint.write_directory(target, {}, a_json="2")
    assert not target.exists()
    checkpoint.write_directory(target, {}, a_json="3")
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


def test_a_damaged_tensor_file_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    path = tmp_path / "update-000000001/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        checkpoint.newest(tmp_path, "run")


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


def test_the_optimizer_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    whole, _ = trained(10)
    model, optimizer = trained(6)
    names = {p: name for name, p in model.named_parameters()}
    groups = {
        "model": dict(model.named_parameters()),
        "optimizer": checkpoint.optimizer_tensors(optimizer, names),
    }
    checkpoint.save(tmp_path, Checkpoint(6, "run", groups, {}))
    found = checkpoint.newest(tmp_path, "run")
    assert found is not None

    resumed, fresh = trained(0)
    resumed.load_state_dict(dict(found.tensors["model"]))
    checkpoint.load_optimizer(
        fresh, {p: name for name, p in resumed.named_parameters()}, found.tensors["optimizer"]
    )
    step(resumed, fresh, range(6, 10))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
