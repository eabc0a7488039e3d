"""The loop that both stages share: update, report, checkpoint, stop when asked to."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from training import checkpoint
from training.checkpoint import Checkpoint
from training.reporting import Reporter
from training.runtime import Runtime, StopSignal


class Stopped(SystemExit):
    """A signal ended the run after a checkpoint; the exit status is 128 + its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)


class Trainer(Protocol):
    """A model, its optimiser and its data: what the loop needs to know of them.

    Attributes:
        runtime: this process.
        fingerprint: of recipe and data; only its own checkpoints are resumed.
    """

    runtime: Runtime
    fingerprint: str

    def update(self, step: int) -> Mapping[str, Tensor]:
        """Do update number `step`, from 0; return scalars to report."""

    def save(self, done: int) -> Checkpoint:
        """The state after `done` updates."""

    def load(self, found: Checkpoint) -> None:
        """Go on from `save`."""


def run(
    trainer: Trainer, output: Path, *, updates: int, report_every: int, checkpoint_seconds: float
) -> None:
    """Do updates up to number `updates`, from the newest checkpoint on.

    Args:
        trainer: reported scalars are averaged between reports, and are the first process's own.
        output: directory of checkpoints and metrics.
        updates: where to end.
        report_every: updates between reports.
        checkpoint_seconds: time between checkpoints.

    Raises:
        Stopped: after SIGINT or SIGTERM, with a checkpoint written.
    """
    runtime, directory = trainer.runtime, output / "checkpoints"
    found = checkpoint.newest(directory, trainer.fingerprint)
    if found is not None:
        trainer.load(found)
        if runtime.first:
            print(f"going on from update {found.update}", flush=True)
    start = found.update if found else 0
    stop = StopSignal(runtime)
    saved_at = time.monotonic()
    sums: dict[str, Tensor] = {}
    count = 0
    with Reporter(output, updates, start, runtime.first) as reporter:
        for step in range(start, updates):
            for name, value in trainer.update(step).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
            count, done = count + 1, step + 1
            if done % report_every == 0 or done in (1, updates):
                reporter.log(done, {name: (s / count).item() for name, s in sums.items()})
                sums, count = {}, 0
            due = time.monotonic() - saved_at > checkpoint_seconds
            received, due = stop.agree(due)
            if (received or due) and runtime.first:
                checkpoint.save(directory, trainer.save(done))
                saved_at = time.monotonic()
            if received:
                raise Stopped(received)
