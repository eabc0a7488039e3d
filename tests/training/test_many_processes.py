"""The transformer's trainer in one and in two processes: replicated, sharded, compressed."""

import dataclasses
from pathlib import Path

import pytest
import tiny_training
import torch
from dalle_runs import CPU, train, trainer_in
from many_processes import run_in
from safetensors.torch import load_file
from tiny_training import Finished

from pipelines.publish.manifest import DatasetError
from training import loop, train_dalle
from training.checkpoints import checkpoint
from training.dalle.execution import Execution, Sharding
from training.dalle.gradient_scales import BACK_OFF
from training.dalle.live_samples import SHEET, LiveSamples
from training.dalle.precision import Precision
from training.dalle.trainer import DALLETrainer
from training.errors import InputError
from training.reporting import read_metrics
from training.runtime import Runtime
from training.token_data import TokenData

FIRST_PART = "compressed/checkpoints/update-*/model.00000.safetensors"
CASES = {
    "plain": Execution(),
    "sharded": Execution(sharding=Sharding.ALL, recompute=True),
    "compressed": Execution(compress=True),
    "half": Execution(precision=Precision.FP16_PER_BLOCK, micro_batch=1),
    "half compressed": Execution(precision=Precision.FP16_PER_BLOCK, compress=True),
    "bf16 sharded": Execution(precision=Precision.BF16, sharding=Sharding.ALL, micro_batch=1),
}
# How far a loss may be from one process's in fp32.
NEAR = {
    "plain": 1e-4,
    "sharded": 1e-4,
    "compressed": 2e-2,
    "half": 5e-3,
    "half compressed": 2e-2,
    "bf16 sharded": 2e-2,
}
RESUMED = ("sharded", "compressed", "half", "half compressed")
MORE = ("plain", "sharded")


def _trainer(rank: int, world: int, dataset: str, case: str) -> DALLETrainer:
    return trainer_in(rank, world, dataset, CASES[case])


def _train(rank: int, world: int, dataset: str, output: str, case: str, until: int) -> list[float]:
    return train(_trainer(rank, world, dataset, case), Path(output), until)


def _overflow(rank: int, world: int, dataset: str) -> dict[str, list[float]]:
    """Updates of which the second overflows in one block of one process."""
    trainer = _trainer(rank, world, dataset, "half")
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
    trainer = _trainer(rank, world, dataset, "sharded")
    data = TokenData(dataset, tiny_training.tiny())
    look = LiveSamples(trainer, data, Path(dvae), output).look(2)
    loop.run(trainer, output, updates=3, report_every=1, checkpoint_seconds=60, look=look)
    assert (trainer.averaged() is None) == (rank > 0)


def _formats(rank: int, world: int, dataset: str) -> list[float]:
    """Bytes of an element, as the blocks see them: of a gain, a gain's gradient, and a matrix."""
    trainer = _trainer(rank, world, dataset, "bf16 sharded")
    block = trainer.model.blocks[0]
    norm, matrix = block.get_submodule("norm"), block.get_submodule("qkv")
    seen: list[torch.Tensor] = []
    for module in (norm, matrix):
        module.register_forward_hook(lambda m, *_: seen.append(m.weight))
    trainer.update(0)
    gradient = norm.get_parameter("weight").grad
    assert gradient is not None
    return [float(t.element_size()) for t in (seen[0], gradient, seen[1])]


def _more(rank: int, world: int, dataset: str, alone: str, output: str) -> dict[str, list[float]]:
    """Go on from one process's checkpoint; its state is stored again before the first update."""
    found = {}
    for case in MORE:
        trainer = _trainer(rank, world, dataset, case)
        stored = checkpoint.newest(Path(alone), "run")
        assert stored is not None
        trainer.load(stored)
        checkpoint.save(Path(output) / f"{case} again", trainer.save(stored.update))
        found[f"{case} more"] = [float(trainer.update(8 + i)["image"]) for i in range(4)]
    return found


def _ends_for_damage(rank: int, world: int, dataset: str) -> list[float]:
    """One process finds another hash than the manifest's, and says so; the other one ends too."""
    data = TokenData(dataset, tiny_training.tiny())
    if rank == 0:
        files = [dataclasses.replace(file, sha256="ab") for file in data.manifest.files]
        data.manifest = dataclasses.replace(data.manifest, files=tuple(files))
    with pytest.raises(DatasetError if rank == 0 else SystemExit) as raised:
        train_dalle._verify(data, Runtime(rank, world, CPU))
    return [float(rank > 0 or "its manifest says ab" in str(raised.value))]


def _ends_for_memory(
    rank: int, world: int, dataset: str, free: tuple[int | None, ...], speaker: int
) -> list[float]:
    """Whether the first that lacks memory says so, and the other one ends without a word."""
    data = TokenData(dataset, tiny_training.tiny())
    with pytest.raises((InputError, SystemExit)) as raised:
        DALLETrainer(data, Runtime(rank, world, CPU), "run", free=free[rank])
    return [float(isinstance(raised.value, InputError) is (rank == speaker))]


def _all(
    rank: int, world: int, dataset: str, dvae: str, output: str, alone: str
) -> dict[str, list[float]]:
    found = {c: _train(rank, world, dataset, f"{output}/{c}", c, 8) for c in CASES}
    for case in RESUMED:
        # From its checkpoint after 8 updates, beside a run that never stopped.
        found[f"{case} resumed"] = _train(rank, world, dataset, f"{output}/{case}", case, 12)
        whole = _train(rank, world, dataset, f"{output}/{case} whole", case, 12)
        found[f"{case} whole"] = whole[8:]
    _sheet(rank, world, dataset, dvae, Path(output) / "samples")
    found |= _more(rank, world, dataset, alone, output)
    found["formats"] = _formats(rank, world, dataset)
    return found | _overflow(rank, world, dataset)


@pytest.fixture(scope="module")
def alone(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Checkpoints of one process after 8 updates, and its losses in 12 that never stopped."""
    first, whole = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("whole")
    _train(0, 1, finished.dataset, str(first), "plain", 8)
    return first / "checkpoints", _train(0, 1, finished.dataset, str(whole), "plain", 12)


@pytest.fixture(scope="module")
def two(
    finished: Finished, alone: tuple[Path, list[float]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[float]]]:
    output = tmp_path_factory.mktemp("two")
    places = (finished.dataset, str(finished.dvae), str(output), str(alone[0]))
    found = run_in(2, _all, *places)
    assert found[0] == found[1]  # all processes report the same
    return output, found[0]


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_learn_as_one_does(
    case: str, two: tuple[Path, dict[str, list[float]]], alone: tuple[Path, list[float]]
) -> None:
    assert two[1][case] == pytest.approx(alone[1][:8], rel=NEAR[case])


def test_gains_are_fp32_where_matrices_travel_in_bf16(
    two: tuple[Path, dict[str, list[float]]],
) -> None:
    assert two[1]["formats"] == [4, 4, 2]


def test_one_that_finds_damaged_data_ends_both(finished: Finished) -> None:
    assert run_in(2, _ends_for_damage, finished.dataset) == [[1.0]] * 2


@pytest.mark.parametrize(("free", "speaker"), [((1, 1), 0), ((None, 1), 1)])
def test_one_says_that_memory_lacks(
    finished: Finished, free: tuple[int | None, ...], speaker: int
) -> None:
    assert run_in(2, _ends_for_memory, finished.dataset, free, speaker) == [[1.0]] * 2


@pytest.mark.parametrize("case", MORE)
def test_two_processes_go_on_from_one(
    case: str, two: tuple[Path, dict[str, list[float]]], alone: tuple[Path, list[float]]
) -> None:
    before = checkpoint.newest(alone[0], "run")
    again = checkpoint.newest(two[0] / f"{case} again", "run")
    assert before is not None
    assert again is not None
    for group in ("model", "ema", "optimizer"):
        stored, found = before.tensors[group], again.tensors[group]
        assert stored.keys() == found.keys()
        assert [name for name in stored if not torch.equal(stored[name], found[name])] == []
    assert two[1][f"{case} more"] == pytest.approx(alone[1][8:], rel=1e-4)


def test_what_compression_sends_is_reported(two: tuple[Path, dict[str, list[float]]]) -> None:
    lines = {case: read_metrics(two[0] / case) for case in ("plain", "compressed")}
    assert "wire_bytes" not in lines["plain"][0]
    stored = load_file(next(two[0].glob(FIRST_PART)))
    parameters = sum(tensor.numel() for tensor in stored.values())
    sent = {line["wire_bytes"] for line in lines["compressed"]}
    assert len(sent) == 1  # an update's, not all so far
    assert 0.3 < sent.pop() / (4 * parameters) < 0.9


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


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(
    case: str, two: tuple[Path, dict[str, list[float]]]
) -> None:
    resumed, whole = two[1][f"{case} resumed"], two[1][f"{case} whole"]
    if CASES[case].compress:
        # Only the sum of the error buffers is kept, so each process goes on with its mean; losing
        # the buffers changes more than this.
        assert resumed == pytest.approx(whole, rel=1e-6, abs=0)
    else:
        assert resumed == whole


@pytest.mark.parametrize("case", list(CASES))
def test_one_process_goes_on_from_two(
    case: str, two: tuple[Path, dict[str, list[float]]], finished: Finished
) -> None:
    stored = checkpoint.newest(two[0] / case / "checkpoints", "run")
    assert stored is not None
    execution = dataclasses.replace(CASES[case], sharding=Sharding.NONE, compress=False)
    trainer = trainer_in(0, 1, finished.dataset, execution)
    trainer.load(stored)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, stored.tensors["model"][name])
    figures = trainer.update(stored.update)
    assert 0 < float(figures["image"]) < 6
    if trainer.scales is not None:
        assert trainer.scales.replicas == 1
        assert max(trainer.scales.values) < 2.0**14
