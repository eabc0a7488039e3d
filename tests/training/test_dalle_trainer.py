"""An update alone: where and how it is computed, when it must not be made, what is stored."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import tiny_training
import torch
from tiny_training import Finished
from torch import Tensor

from pipelines.layout import Layout
from pipelines.publish.use import Use, uses
from training import loop
from training.checkpoints import checkpoint
from training.config import TransformerConfig
from training.dalle import trainer as dalle_trainer
from training.dalle.execution import Execution, Sharding
from training.dalle.gradient_scales import BACK_OFF, GROWTH
from training.dalle.precision import Precision
from training.dalle.trainer import DALLETrainer
from training.errors import InputError
from training.runtime import Runtime
from training.token_data import TokenData

BLOCK = 5
CPU = torch.device("cpu")
FIGURES = ("text", "image", "gradient_norm")
COMPILER = shutil.which("c++") or shutil.which("g++")


def trainer_of(finished: Finished, precision: Precision = Precision.FP32) -> DALLETrainer:
    data = TokenData(finished.dataset, tiny_training.tiny())
    runtime = Runtime(0, 1, CPU)
    return DALLETrainer(data, runtime, "run", Execution(precision))


def state_of(trainer: DALLETrainer) -> dict[str, Tensor]:
    """Weights and the optimiser's state, copied."""
    saved = trainer.save(0)
    groups = ("model", "optimizer")
    return {
        f"{group}/{name}": tensor.clone()
        for group in groups
        for name, tensor in saved.tensors[group].items()
    }


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]


def plant(trainer: DALLETrainer, value: float) -> torch.utils.hooks.RemovableHandle:
    """One element of one matrix's gradient in one block is `value`."""

    def planted(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[0, 1] = value
        return gradient

    return trainer.model.blocks[BLOCK].get_parameter("up.weight").register_hook(planted)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16_PER_BLOCK])
def test_a_non_finite_gradient_skips_the_update(
    precision: Precision, value: float, finished: Finished
) -> None:
    trainer = trainer_of(finished, precision)
    assert [float(trainer.update(step)["skipped"]) for step in range(2)] == [0, 0]
    before = state_of(trainer)
    scales = list(trainer.scales.values) if trainer.scales else []
    hook = plant(trainer, value)
    figures = trainer.update(2)
    hook.remove()
    assert float(figures["skipped"]) == 1
    assert math.isfinite(float(figures["image"]))
    assert changed(before, state_of(trainer)) == []
    if trainer.scales:
        pairs = zip(trainer.scales.values, scales, strict=True)
        expected = [BACK_OFF if i == BLOCK else GROWTH for i in range(len(scales))]
        assert [new / old for new, old in pairs] == pytest.approx(expected)
    assert float(trainer.update(3)["skipped"]) == 0
    after = state_of(trainer)
    # Codes and words that no row of the batch has keep their embeddings' moments.
    assert all(after[name].isfinite().all() for name in after)
    assert len(changed(before, after)) > 0.9 * len(before)


def test_a_run_whose_every_update_was_skipped_goes_on(finished: Finished, tmp_path: Path) -> None:
    trainer = trainer_of(finished)
    hook = plant(trainer, math.inf)
    trainer.update(0)
    checkpoint.save(tmp_path, trainer.save(1))
    hook.remove()
    found = checkpoint.newest(tmp_path, "run")
    assert found is not None
    other = trainer_of(finished)
    other.load(found)
    figures = [float(t.update(1)["image"]) for t in (trainer, other)]
    assert figures[0] == figures[1]
    assert float(other.update(2)["skipped"]) == 0


def test_a_thousand_skipped_updates_in_a_row_are_one_error(finished: Finished) -> None:
    trainer = trainer_of(finished)
    trainer.skipped.in_a_row = 997
    hook = plant(trainer, math.inf)
    trainer.update(0)
    assert trainer.save(1).state["skipped_in_a_row"] == 998
    hook.remove()
    trainer.update(1)
    assert trainer.skipped.in_a_row == 0
    trainer.skipped.in_a_row = 997
    plant(trainer, math.inf)
    trainer.update(2)
    trainer.update(3)
    with pytest.raises(InputError, match="1000 updates in a row were not finite"):
        trainer.update(4)


@pytest.mark.parametrize(
    ("world", "sharding", "place"),
    [(2, Sharding.NONE, "meta"), (1, Sharding.MACHINE, "meta"), (2, Sharding.ALL, "cpu")],
)
def test_a_model_is_made_on_its_device_unless_it_is_sharded(
    finished: Finished,
    world: int,
    sharding: Sharding,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lone process that is told to shard has all of it."""

    def made(*_: object, **__: object) -> None:
        raise InterruptedError(torch.get_default_device().type)

    monkeypatch.setattr(dalle_trainer, "Transformer", made)
    data = TokenData(finished.dataset, tiny_training.tiny())
    runtime = Runtime(0, world, torch.device("meta"))
    with pytest.raises(InterruptedError, match=place):
        DALLETrainer(data, runtime, "run", Execution(sharding=sharding))


def test_averages_are_a_model_for_the_first_process(finished: Finished) -> None:
    trainer = trainer_of(finished)
    trainer.update(0)
    averages, model = trainer.ema.tensors(), trainer.averaged()
    assert model is not None
    assert not model.training
    assert all(torch.equal(p, averages[name]) for name, p in model.named_parameters())
    trainer.runtime = Runtime(1, 2, CPU)
    assert trainer.averaged() is None


def test_a_run_shorter_than_the_first_average_keeps_what_it_learnt(finished: Finished) -> None:
    trainer = trainer_of(finished)
    every = trainer.training.ema_every
    for step in range(every):
        trainer.update(step)
        model = trainer.averaged()
        assert model is not None
        assert all(torch.equal(p, trainer.parameters[n]) for n, p in model.named_parameters())
    trainer.update(every)
    model = trainer.averaged()
    assert model is not None
    assert any(not torch.equal(p, trainer.parameters[n]) for n, p in model.named_parameters())


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_compiled_blocks_give_the_same_update(finished: Finished) -> None:
    from torch._dynamo.utils import counters

    small = TransformerConfig(depth=1, heads=2, head_width=8, convolution_kernel=3)
    data = TokenData(finished.dataset, dataclasses.replace(tiny_training.tiny(), transformer=small))
    counters.clear()
    found = []
    for compiled in (False, True):
        execution = Execution(Precision.FP32, compiled=compiled)
        trainer = DALLETrainer(data, Runtime(0, 1, CPU), "run", execution)
        found.append([float(trainer.update(0)[name]) for name in FIGURES])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    # Attention stands between two programs of its block.
    assert counters["stats"]["unique_graphs"] == 3


def test_a_checkpoint_names_its_dataset_where_retention_looks(
    finished: Finished, tmp_path: Path
) -> None:
    layout = Layout(str(tmp_path))
    output = Path(layout.models) / "dalle"
    version = Path(finished.dataset).name.removeprefix("v=")
    loop.run(
        trainer_of(finished), output, updates=1, report_every=1, checkpoint_seconds=0,
        trained_on={"dataset": version},
    )  # fmt: skip
    (place,) = output.glob("checkpoints/update-*")
    assert json.loads((place / "state.json").read_text())["dataset"] == version
    assert list(uses(layout)) == [Use(str(place), version, ())]
    summary = json.loads((finished.dalle / "final/summary.json").read_text())
    assert summary["dataset"] == version
