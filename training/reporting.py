"""What a training program says while it runs: lines, a metrics file, TensorBoard, Dagster.

The only module that speaks the Dagster Pipes protocol; started by a person, it stays silent
there.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes
from PIL import Image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Reporter:
    """Progress of one program; a context manager.

    Args:
        output: directory of `metrics.jsonl` and `tensorboard/`; None keeps no file.
        updates: how many steps the work has.
        start: steps done before; later lines of an interrupted run are dropped.
        active: false in all processes but the first.
    """

    def __init__(self, output: Path | None, updates: int, start: int = 0, active: bool = True):
        self.updates, self.active = updates, active
        self._pipes: PipesContext | None = None
        self._board: SummaryWriter | None = None
        self._metrics = output / METRICS if output and active else None
        self._since, self._start = time.monotonic(), start
        if self._metrics:
            _keep_until(self._metrics, start)
            self._board = _tensorboard(self._metrics.parent / TENSORBOARD, start)

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
        if self._board is not None:
            self._board.close()
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
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)
        if self._pipes is not None:
            self._pipes.report_custom_message(
                {
                    "kind": "progress",
                    "step": step,
                    "updates": self.updates,
                    "metrics": dict(metrics),
                }
            )

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show an image file that was made after `step` updates."""
        if self._board is not None:
            with Image.open(path) as image:
                self._board.add_image(name, np.asarray(image.convert("RGB")), step, None, "HWC")
        if self._pipes is not None:
            message = {"kind": "picture", "step": step, "name": name, "path": str(path)}
            self._pipes.report_custom_message(message)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics file."""
    path = directory / METRICS
    if not path.exists():
        return []
    # A line without its end was being written when the program was killed.
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _tensorboard(directory: Path, start: int) -> "SummaryWriter":
    # Only the training programs have torch loaded already.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory), purge_step=start + 1)


def _keep_until(path: Path, step: int) -> None:
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    temporary.replace(path)
