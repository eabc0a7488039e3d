"""What a training program says while it runs: lines, a metrics file, Dagster.

The only module that speaks the Dagster Pipes protocol; started by a person, it stays silent
there.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

METRICS = "metrics.jsonl"


class Reporter:
    """Progress of one program; a context manager.

    Args:
        output: directory of `metrics.jsonl`; None keeps no file.
        updates: how many steps the work has.
        start: steps done before; later lines of an interrupted run are dropped.
        active: false in all processes but the first.
    """

    def __init__(self, output: Path | None, updates: int, start: int = 0, active: bool = True):
        self.updates, self.active = updates, active
        self._pipes: PipesContext | None = None
        self._metrics = output / METRICS if output and active else None
        self._since, self._start = time.monotonic(), start
        if self._metrics:
            _keep_until(self._metrics, start)

    def __enter__(self) -> "Reporter":
        if self.active and os.environ.get(DAGSTER_PIPES_CONTEXT_ENV_VAR):
            self._pipes = open_dagster_pipes()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pipes is not None:
            self._pipes.close()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Say how far the work is."""
        if not self.active:
            return
        seconds = time.monotonic() - self._since
        left = seconds / max(step - self._start, 1) * (self.updates - step)
        figures = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"{step:>8}/{self.updates}  {figures}  {left:.0f} s left", flush=True)
        if self._metrics:
            with open(self._metrics, "a") as stream:
                stream.write(json.dumps({"step": step, **metrics}) + "\n")
        if self._pipes is not None:
            self._pipes.report_custom_message(
                {
                    "kind": "progress",
                    "step": step,
                    "updates": self.updates,
                    "metrics": dict(metrics),
                }
            )


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics file."""
    path = directory / METRICS
    if not path.exists():
        return []
    # A line without its end was being written when the program was killed.
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _keep_until(path: Path, step: int) -> None:
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    temporary.replace(path)
