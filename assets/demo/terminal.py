"""Progress lines of a run, from its events."""

import re
import sys
import time
from dataclasses import dataclass, field

from assets.lib.runs import Event, failure

_PROGRESS_SECONDS = 15.0
# What the trainer logs of a program that draws or measures; one that trains has figures to observe.
_COUNT = re.compile(r"update \d+ of \d+")


@dataclass
class Progress:
    """Prints a line when an asset is done, and training figures while it works.

    Attributes:
        total: assets in the whole demonstration.
        done: assets finished before this run.
        errors: what failed in this run, as "step: reason".
    """

    total: int
    done: int = 0
    errors: list[str] = field(default_factory=list)
    _started: dict[str, float] = field(default_factory=dict)
    _printed: float = 0.0

    def __call__(self, entry: Event) -> None:
        """Print what `entry` tells a person."""
        event = entry.dagster_event
        if event is None:
            if _COUNT.fullmatch(entry.user_message):
                self._working(f"{entry.step_key}: {entry.user_message}")
            return
        if event.is_step_start and event.step_key:
            self._started[event.step_key] = entry.timestamp
        if entry.asset_materialization is not None:
            self.done += 1
            key = entry.asset_materialization.asset_key.to_user_string()
            seconds = entry.timestamp - self._started.get(key, entry.timestamp)
            say(f"[{self.done:2}/{self.total}] {key:<22}{_counts(entry):<34}{seconds:6.0f} s")
        elif entry.asset_observation is not None:
            self._training(entry)
        reason = failure(entry)
        if reason:
            self.errors.append(f"{event.step_key}: {reason}")

    def _training(self, entry: Event) -> None:
        metadata = {k: v.value for k, v in entry.asset_observation.metadata.items()}  # type: ignore[union-attr]
        step, updates = metadata.pop("step", None), metadata.pop("updates", None)
        if step is None:
            return
        key = entry.asset_observation.asset_key.to_user_string()  # type: ignore[union-attr]
        figures = ", ".join(f"{name} {value:.4g}" for name, value in list(metadata.items())[:4])
        self._working(f"{key}: update {step} of {updates}, {figures}")

    def _working(self, text: str) -> None:
        if time.monotonic() - self._printed >= _PROGRESS_SECONDS:
            self._printed = time.monotonic()
            say(f"        {text}")


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def complain(text: str) -> None:
    """Print an error."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def _counts(entry: Event) -> str:
    metadata = {k: v.value for k, v in entry.asset_materialization.metadata.items()}  # type: ignore[union-attr]
    rows_in, kept = metadata.get("rows in"), metadata.get("rows kept")
    if rows_in:
        return f"{kept:,} of {rows_in:,} kept"
    if "updates" in metadata:
        return f"{metadata['updates']:,} updates"
    # Of a version; tensors, captions and figures are rows too, which say nothing here.
    if "version" in metadata:
        return f"{metadata['dagster/row_count']:,} rows"
    return ""
