"""The transformer's trainer in one and in two processes: replicated, sharded, compressed."""

import dataclasses
from pathlib import Path

import pytest
import tiny_training
import torch
from many_processes import run_in
from tiny_training import Finished

from training import loop
from training.checkpoints import checkpoint
from training.dalle.execution import Execution
from training.dalle.gradient_scales import BACK_OFF
from training.dalle.live_samples import SHEET, LiveSamples
from training.dalle.precision import Precision
from training.dalle.trainer import DALLETrainer
from training.runtime import Runtime
from training.token_data import TokenData

CASES = {
    "plain": Execution(),
    "sharded": Execution(shard=True, recompute=True),
    "compressed": Execution(compress=True),
    "half": Execution(precision=Precision.FP16_PER_BLOCK, micro_batch=1),
}


def _train(rank: int, world: int, dataset: str, output: str, case: str, until: int) -> list[float]:
    trainer = DALLETrainer(
        TokenData(dataset, tiny_training.tiny()),
        Runtime(rank, world, torch.device("cpu")),
        "run",
        CASES[case],
    )
    losses: list[float] = []
    update = trainer.update

    def noted(step: int) -> dict[str, torch.Tensor]:
        found = update(step)
        losses.append(float(found["image"]))
        return found

    trainer.update = noted  # type: ignore[method-assign]
    loop.run(trainer, Path(output), updates=until, report_every=1, checkpoint_seconds=0)
    return losses


def _overflow(rank: int, world: int, dataset: str) -> dict[str, list[float]]:
    """Updates of which the second overflows in one block of one process."""
    runtime = Runtime(rank, world, torch.device("cpu"))
    data = TokenData(dataset, tiny_training.tiny())
    trainer = DALLETrainer(data, runtime, "run", CASES["half"])
    trainer.update(0)
    weight = trainer.model.blocks[2].get_parameter("qkv.weight")
    before, scales = weight.detach().clone(), trainer.scales
    assert scales is not None
    old = list(scales.values)
    hook = weight.register_hook(lambda g: g * torch.inf if rank == 1 else g)
    figures = [trainer.update(1)]
    hook.remove()
    moved = [float((weight != before).any())]
    ratios = [new / value for new, value in zip(scales.values, old, strict=True)]
    figures.append(trainer.update(2))
    moved.append(float((weight != before).any()))
    return {"skipped": [float(f["skipped"]) for f in figures], "moved": moved, "ratios": ratios}


def _sheet(rank: int, world: int, dataset: str, dvae: str, output: Path) -> None:
    """Updates with shards, and a sheet of samples after the second."""
    data = TokenData(dataset, tiny_training.tiny())
    runtime = Runtime(rank, world, torch.device("cpu"))
    trainer = DALLETrainer(data, runtime, "run", CASES["sharded"])
    look = LiveSamples(trainer, data, Path(dvae), output).look(2)
    loop.run(trainer, output, updates=3, report_every=1, checkpoint_seconds=60, look=look)


def _all(rank: int, world: int, dataset: str, dvae: str, output: str) -> dict[str, list[float]]:
    found = {c: _train(rank, world, dataset, f"{output}/{c}", c, 8) for c in CASES}
    for case in ("sharded", "compressed", "half"):
        # From its checkpoint after 8 updates, beside a run that never stopped.
        found[f"{case} resumed"] = _train(rank, world, dataset, f"{output}/{case}", case, 12)
        whole = _train(rank, world, dataset, f"{output}/{case} whole", case, 12)
        found[f"{case} whole"] = whole[8:]
    _sheet(rank, world, dataset, dvae, Path(output) / "samples")
    return found | _overflow(rank, world, dataset)


@pytest.fixture(scope="module")
def two(
    finished: Finished, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[float]]]:
    output = tmp_path_factory.mktemp("two")
    found = run_in(2, _all, finished.dataset, str(finished.dvae), str(output))
    assert found[0] == found[1]  # all processes report the same
    return output, found[0]


def test_two_processes_learn_as_one_does(
    two: tuple[Path, dict[str, list[float]]], finished: Finished, tmp_path: Path
) -> None:
    _, found = two
    alone = _train(0, 1, finished.dataset, str(tmp_path), "plain", 8)
    assert found["plain"] == pytest.approx(alone, rel=1e-4)
    assert found["sharded"] == pytest.approx(alone, rel=1e-4)
    assert found["half"] == pytest.approx(alone, rel=5e-3)
    assert found["compressed"] == pytest.approx(alone, rel=2e-2)


def test_an_overflow_in_one_process_skips_the_update_of_all(
    two: tuple[Path, dict[str, list[float]]],
) -> None:
    _, found = two
    assert found["skipped"] == found["moved"][::-1] == [1, 0]
    fallen = [i for i, ratio in enumerate(found["ratios"]) if ratio < 1]
    assert fallen == [2]
    assert found["ratios"][2] == pytest.approx(BACK_OFF)


def test_the_first_of_several_draws_samples(two: tuple[Path, dict[str, list[float]]]) -> None:
    assert (two[0] / "samples" / SHEET).stat().st_size > 1000


@pytest.mark.parametrize("case", ["sharded", "compressed", "half"])
def test_a_resumed_run_is_the_uninterrupted_one(
    case: str, two: tuple[Path, dict[str, list[float]]]
) -> None:
    resumed, whole = two[1][f"{case} resumed"], two[1][f"{case} whole"]
    if case == "compressed":
        # Only the sum of the error buffers is kept, so each process goes on with its mean.
        assert resumed == pytest.approx(whole, rel=1e-2)
    else:
        assert resumed == whole


@pytest.mark.parametrize("case", list(CASES))
def test_one_process_goes_on_from_two(
    case: str, two: tuple[Path, dict[str, list[float]]], finished: Finished
) -> None:
    stored = checkpoint.newest(two[0] / case / "checkpoints", "run")
    assert stored is not None
    data = TokenData(finished.dataset, tiny_training.tiny())
    runtime = Runtime(0, 1, torch.device("cpu"))
    execution = dataclasses.replace(CASES[case], shard=False, compress=False)
    trainer = DALLETrainer(data, runtime, "run", execution)
    trainer.load(stored)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, stored.tensors["model"][name])
    figures = trainer.update(stored.update)
    assert 0 < float(figures["image"]) < 6
    if trainer.scales is not None:
        assert trainer.scales.replicas == 1
        assert max(trainer.scales.values) < 2.0**14
