"""The transformer's trainer on two machines of two processes: a copy on each, shards within it."""

import dataclasses
import os
from pathlib import Path

import pytest
import tiny_training
import torch
from dalle_runs import CPU, train, trainer_in
from many_processes import run_in
from safetensors import safe_open
from tiny_training import Finished
from torch.distributed.tensor import DTensor

from training.checkpoints import checkpoint
from training.checkpoints.checkpoint import Checkpoint
from training.dalle.execution import Execution, Sharding
from training.dalle.precision import Precision
from training.dalle.trainer import DALLETrainer
from training.distributed.data_parallel import exchanging
from training.errors import InputError
from training.likelihood import nats, right_and_shuffled
from training.reporting import read_metrics
from training.runtime import Runtime
from training.splits import Split
from training.token_data import TokenData

MACHINE = Sharding.MACHINE
CASES = {
    "plain": Execution(sharding=MACHINE, micro_batch=1),
    "compressed": Execution(sharding=MACHINE, compress=True),
    "half compressed": Execution(Precision.FP16_PER_BLOCK, sharding=MACHINE, compress=True),
    "bf16 compressed": Execution(Precision.BF16, sharding=MACHINE, compress=True),
}
# How far a loss may be from one process's in fp32.
NEAR = {"plain": 1e-4, "compressed": 2e-2, "half compressed": 2e-2, "bf16 compressed": 2e-2}
RESUMED = ("plain", "compressed", "half compressed")


def _run(rank: int, world: int, dataset: str, output: str) -> dict[str, list[float]]:
    os.environ["LOCAL_WORLD_SIZE"] = "2"

    def run(name: str, case: str, until: int) -> list[float]:
        trainer = trainer_in(rank, world, dataset, CASES[case])
        return train(trainer, Path(output) / name, until)

    found = {case: run(case, case, 8) for case in CASES}
    for case in RESUMED:
        found[f"{case} resumed"] = run(case, case, 12)
        found[f"{case} whole"] = run(f"{case} whole", case, 12)[8:]
    found["passes"] = _passes(rank, world, dataset)
    found["looked"] = _after_a_look(rank, world, dataset, Path(output) / "looked")
    trainer = trainer_in(rank, world, dataset, CASES["compressed"])
    found["overflow"] = _overflow(rank, trainer)
    return found


def _unlike(rank: int, world: int) -> list[float]:
    """Three processes of which two are on one machine and one on another."""
    os.environ["LOCAL_WORLD_SIZE"] = "1" if rank == 2 else "2"
    with pytest.raises(InputError, match="needs as many on each"):
        CASES["plain"].shards(Runtime(rank, world, CPU))
    return [1.0]


def _passes(rank: int, world: int, dataset: str) -> list[float]:
    """Updates of two rows in a process: as many passes, or one; which shards hold gradients."""
    tiny = tiny_training.tiny()
    recipe = dataclasses.replace(
        tiny, dalle_training=dataclasses.replace(tiny.dalle_training, batch=2 * world)
    )
    alike = []
    for case in ("plain", "compressed"):
        found = []
        for rows in (1, 0):
            execution = dataclasses.replace(CASES[case], micro_batch=rows)
            data = TokenData(dataset, recipe)
            trainer = DALLETrainer(data, Runtime(rank, world, CPU), "run", execution)
            found.append([float(trainer.update(step)["image"]) for step in range(3)])
        alike.append(float(found[0] == pytest.approx(found[1], rel=1e-5)))
    # Of the last trainer, whose copies keep gradients of their own: after a pass that is no last
    # one they are shards already.
    batch = data.plain_batch(data.stream(Split.TRAIN).all_rows(1))
    trainer.optimizer.zero_grad()
    with exchanging(trainer.wrapped, last=False):
        losses = trainer.wrapped(trainer.model.pad_text(batch.text, batch.lengths), batch.codes)
        (losses.text + losses.image).backward()
    gradients = [p.grad for p in trainer.parameters.values()]
    return [*alike, float(all(isinstance(g, DTensor) for g in gradients))]


def _after_a_look(rank: int, world: int, dataset: str, output: Path) -> list[float]:
    """Whether what is saved and averaged behind a forward pass alone is what was before it.

    And whether the averages, taken as weights, give what their model does.
    """
    trainer = trainer_in(rank, world, dataset, CASES["compressed"])
    trainer.update(0)
    before = trainer.averaged()
    data = TokenData(dataset, tiny_training.tiny())
    right_and_shuffled(trainer.model, data, data.stream(Split.TRAIN).all_rows(8))
    after = trainer.averaged()
    checkpoint.save(output, trainer.save(1))
    stored = checkpoint.newest(output, "run")
    assert stored is not None
    trainer.load(stored)
    rows = data.plain_batch(data.stream(Split.TRAIN).all_rows(8))
    for step in range(1, 3):
        trainer.update(step)
    nats(trainer.model, rows)
    averaged = trainer.averaged()
    trainer.take_averages()
    measured = nats(trainer.model, rows)
    if before is None or after is None or averaged is None:
        return [1.0, 1.0]
    found, kept = after.state_dict(), stored.tensors["ema"]
    same = [
        torch.equal(w, found[n]) and torch.equal(w, kept[n]) for n, w in before.state_dict().items()
    ]
    alike = measured == pytest.approx(nats(averaged, rows), rel=1e-5)
    return [float(all(same)), float(alike)]


def _overflow(rank: int, trainer: DALLETrainer) -> list[float]:
    """Whether updates are skipped of which the second overflows in one shard of one machine."""
    weight = trainer.model.blocks[0].get_parameter("out.weight")
    figures = [trainer.update(0)]
    hook = weight.register_post_accumulate_grad_hook(
        lambda p: p.grad.to_local().fill_(torch.inf) if rank == 3 else None
    )
    figures.append(trainer.update(1))
    hook.remove()
    figures.append(trainer.update(2))
    return [float(found["skipped"]) for found in figures]


@pytest.fixture(scope="module")
def alone(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """One process's losses."""
    trainer = trainer_in(0, 1, finished.dataset, Execution())
    return train(trainer, tmp_path_factory.mktemp("alone"), 8)


@pytest.fixture(scope="module")
def four(
    finished: Finished, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[float]]]:
    output = tmp_path_factory.mktemp("four")
    found = run_in(4, _run, finished.dataset, str(output))
    assert found == [found[0]] * 4  # all processes report the same
    return output, found[0]


def _stored(output: Path) -> Checkpoint:
    found = checkpoint.newest(output / "checkpoints", "run")
    assert found is not None
    return found


@pytest.mark.parametrize("case", list(CASES))
def test_two_machines_learn_as_one_process_does(
    case: str, four: tuple[Path, dict[str, list[float]]], alone: list[float]
) -> None:
    assert four[1][case] == pytest.approx(alone, rel=NEAR[case])


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(
    case: str, four: tuple[Path, dict[str, list[float]]]
) -> None:
    resumed, whole = four[1][f"{case} resumed"], four[1][f"{case} whole"]
    # Of error buffers only the sum over the machines is kept.
    assert resumed == pytest.approx(whole, rel=1e-6 if CASES[case].compress else 0, abs=0)


@pytest.mark.parametrize("case", list(CASES))
def test_one_process_goes_on_from_two_machines(
    case: str, four: tuple[Path, dict[str, list[float]]], finished: Finished
) -> None:
    stored = _stored(four[0] / case)
    trainer = trainer_in(0, 1, finished.dataset, Execution(CASES[case].precision))
    trainer.load(stored)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, stored.tensors["model"][name])
    assert 0 < float(trainer.update(stored.update)["image"]) < 6


def test_a_checkpoint_holds_one_copy_in_upright_shards(
    four: tuple[Path, dict[str, list[float]]],
) -> None:
    [stored] = (four[0] / "compressed/checkpoints").glob("update-*12")
    # The second machine has nothing of its own but its random state.
    assert sorted(p.name for p in stored.glob("model.*")) == [
        f"model.{rank:05d}.safetensors" for rank in (0, 1)
    ]
    width = tiny_training.tiny().transformer.width
    with safe_open(stored / "model.00001.safetensors", framework="pt") as file:
        shapes = {
            n: file.get_slice(f"blocks.{n}").get_shape() for n in ("0.out.weight", "1.down.weight")
        }
    assert shapes == {"0.out.weight": [width // 2, width], "1.down.weight": [width, 2 * width]}
    errors = _stored(four[0] / "compressed").tensors["errors"]
    assert errors["blocks.1.down.weight"].shape == (width, 4 * width)
    assert all(tensor.abs().max() > 0 for tensor in errors.values())


def test_what_machines_exchange_is_less_than_their_shards(
    four: tuple[Path, dict[str, list[float]]],
) -> None:
    sent = {line["wire_bytes"] for line in read_metrics(four[0] / "compressed")}
    model = _stored(four[0] / "compressed").tensors["model"]
    of_a_shard = 4 * sum(tensor.numel() for tensor in model.values()) / 2
    assert len(sent) == 1
    assert 0.3 < sent.pop() / of_a_shard < 0.9


def test_passes_add_up_and_leave_shards(four: tuple[Path, dict[str, list[float]]]) -> None:
    assert four[1]["passes"] == [1, 1, 1]


def test_what_is_kept_after_a_look_is_all_of_the_model(
    four: tuple[Path, dict[str, list[float]]],
) -> None:
    assert four[1]["looked"] == [1, 1]


def test_an_overflow_in_one_shard_skips_the_update_of_all(
    four: tuple[Path, dict[str, list[float]]],
) -> None:
    assert four[1]["overflow"] == [0, 1, 0]


def test_machines_of_unlike_size_all_end() -> None:
    assert run_in(3, _unlike) == [[1.0]] * 3


def test_what_cannot_be_shared_out_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="take --shard=machine"):
        Execution(sharding=Sharding.ALL, compress=True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert CASES["plain"].shards(Runtime(0, 6, CPU)) == 3
    with pytest.raises(InputError, match="4 processes are not 3 on each machine"):
        CASES["plain"].shards(Runtime(0, 4, CPU))
