"""The loop that both stages share: update, report, checkpoint, stop when asked to."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

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


def run(
    update: Callable[[int], Mapping[str, Tensor]],
    save: Callable[[int], Checkpoint],
    *,
    start: int,
    updates: int,
    output: Path,
    runtime: Runtime,
    report_every: int,
    checkpoint_seconds: float,
) -> None:
    """Do updates `start` ... `updates` - 1.

    Args:
        update: does one update, numbered from 0, and returns scalar tensors to report; they are
            averaged between reports and over no more than one process.
        save: the run's state after so many updates.
        start: updates done by an earlier process.
        updates: where to end.
        output: directory of checkpoints and metrics.
        runtime: this process.
        report_every: updates between reports.
        checkpoint_seconds: time between checkpoints.

    Raises:
        Stopped: after SIGINT or SIGTERM, with a checkpoint written.
    """
    stop = StopSignal(runtime)
    saved_at = time.monotonic()
    sums: dict[str, Tensor] = {}
    count = 0
    with Reporter(output, updates, start, runtime.first) as reporter:
        for step in range(start, updates):
            for name, value in update(step).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
            count, done = count + 1, step + 1
            if done % report_every == 0 or done in (1, updates):
                reporter.log(done, {name: (s / count).item() for name, s in sums.items()})
                sums, count = {}, 0
            due = time.monotonic() - saved_at > checkpoint_seconds
            received, due = stop.agree(due)
            if (received or due) and runtime.first:
                checkpoint.save(output / "checkpoints", save(done))
                saved_at = time.monotonic()
            if received:
                raise Stopped(received)
