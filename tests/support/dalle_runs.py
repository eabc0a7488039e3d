"""The tiny recipe's transformer, trained within a test's own process."""

from pathlib import Path

# ruff: noqa: TID253 - a helper of the training tests
import tiny_training
import torch

from training import loop
from training.dalle.execution import Execution
from training.dalle.trainer import DALLETrainer
from training.runtime import Runtime
from training.token_data import TokenData

CPU = torch.device("cpu")


def trainer_in(rank: int, world: int, dataset: str, execution: Execution) -> DALLETrainer:
    """A run's state in one process of several."""
    data = TokenData(dataset, tiny_training.tiny())
    return DALLETrainer(data, Runtime(rank, world, CPU), "run", execution)


def train(trainer: DALLETrainer, output: Path, until: int) -> list[float]:
    """Losses of the updates that were still to do, with a checkpoint after each."""
    losses: list[float] = []
    update = trainer.update

    def noted(step: int) -> dict[str, torch.Tensor]:
        found = update(step)
        losses.append(float(found["image"]))
        return found

    trainer.update = noted  # type: ignore[method-assign]
    loop.run(trainer, output, updates=until, report_every=1, checkpoint_seconds=0)
    return losses
