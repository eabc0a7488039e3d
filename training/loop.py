"""The loop that all trainings share: update, report, checkpoint, stop when asked to."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from training import remote
from training.checkpoints import checkpoint
from training.checkpoints.checkpoint import Checkpoint
from training.reporting import Reporter
from training.runtime import (
    Runtime,
    StopSignal,
    leave,
    random_state,
    restore_random_state,
)


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
        """The state after `done` updates; every process is asked for its part."""

    def load(self, found: Checkpoint) -> None:
        """Go on from `save`."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What is measured now and then, beside the updates' own scalars.

    Attributes:
        every: updates between two looks; 0: never.
        measure: takes the updates done and returns figures; runs in every process.
        score: which figure ranks checkpoints, the lower the better; the best so far is worth a
            checkpoint, and is kept.
        pictures: image files that the last `measure` left, by name.
        beside: another look, at its own times.
    """

    every: int
    measure: Callable[[int], Mapping[str, float]]
    score: str = ""
    pictures: Callable[[], Mapping[str, Path]] = dict
    beside: "Look | None" = None

    def is_due(self, done: int) -> bool:
        """Whether to look after `done` updates, or to look beside."""
        return self._is_own(done) or (self.beside is not None and self.beside.is_due(done))

    def _is_own(self, done: int) -> bool:
        return bool(self.every) and done % self.every == 0

    def at(self, done: int, reporter: Reporter) -> dict[str, float]:
        """Figures, if it is time for them."""
        figures: dict[str, float] = {}
        if self._is_own(done):
            figures |= self.measure(done)
            for name, path in self.pictures().items():
                reporter.picture(done, name, path)
        return figures | (self.beside.at(done, reporter) if self.beside else {})


NO_LOOK = Look(0, lambda _: {})


def run(
    trainer: Trainer,
    output: Path,
    *,
    updates: int,
    report_every: int,
    checkpoint_seconds: float,
    per_update: Mapping[str, float] | None = None,
    look: Look = NO_LOOK,
    keep: int = 2,
    trained_on: Mapping[str, Any] | None = None,
) -> None:
    """Do updates up to number `updates`, from the newest checkpoint on.

    Args:
        trainer: reported scalars are averaged between reports, and are the first process's own.
        output: directory of checkpoints and metrics.
        updates: where to end.
        report_every: updates between reports.
        checkpoint_seconds: time between checkpoints.
        per_update: work of one update by name; its rate per second is reported.
        look: what is measured besides.
        keep: checkpoints that are kept besides the best one.
        trained_on: what checkpoints say of the data and of the code.

    Raises:
        Stopped: after SIGINT or SIGTERM, with a checkpoint written.
    """
    runtime, directory = trainer.runtime, output / "checkpoints"
    remote.pull_run(output)
    start = _resume(trainer, directory)
    stop = StopSignal(runtime)
    saved_at = time.monotonic()
    best = checkpoint.best_score(directory, trainer.fingerprint)
    means = _Means(per_update or {})
    with Reporter(output, updates, start, runtime.first) as reporter:
        for step in range(start, updates):
            means.add(partial(trainer.update, step))
            done, score = step + 1, None
            if done % report_every == 0 or done in (1, updates) or look.is_due(done):
                # Before the look, which takes time of its own.
                figures = means.take()
                seen = look.at(done, reporter)
                reporter.log(done, figures | seen)
                score = seen.get(look.score)
            better = score is not None and score < best
            best = min(best, math.inf if score is None else score)
            overdue = time.monotonic() - saved_at > checkpoint_seconds
            received, due = stop.agree(better or overdue)
            if received or due:
                if runtime.first:
                    remote.push_files(output)
                state = dataclasses.replace(trainer.save(done), trained_on=trained_on or {})
                _save(state, directory, score, keep)
                saved_at = time.monotonic()
            if received:
                leave()
                raise Stopped(received)


def _resume(trainer: Trainer, directory: Path) -> int:
    """Load the newest checkpoint, if there is one; the updates done."""
    found = checkpoint.newest(directory, trainer.fingerprint)
    if found is None:
        return 0
    trainer.load(found)
    restore_random_state(found.own)
    if trainer.runtime.first:
        print(f"going on from update {found.update}", flush=True)
    return found.update


def _save(state: Checkpoint, directory: Path, score: float | None, keep: int) -> None:
    own = {**state.own, **random_state()}
    checkpoint.save(directory, dataclasses.replace(state, own=own, score=score), keep)


class _Means:
    """Means of reported scalars, and rates of work, since the last report."""

    def __init__(self, per_update: Mapping[str, float]):
        self._per_update = per_update
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._seconds = 0.0

    def add(self, update: Callable[[], Mapping[str, Tensor]]) -> None:
        """Do an update, and take in its scalars and its time."""
        begun = time.monotonic()
        for name, value in update().items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._count += 1
        self._seconds += time.monotonic() - begun

    def take(self) -> dict[str, float]:
        """Means and rates; the next ones begin."""
        begun = time.monotonic()
        means = {name: (s / self._count).item() for name, s in self._sums.items()}
        # The line above waited for the device.
        seconds = max(self._seconds + time.monotonic() - begun, 1e-9)
        rates = {name: n * self._count / seconds for name, n in self._per_update.items()}
        self._begin()
        return means | rates
