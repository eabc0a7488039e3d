"""Schedules of step size, KL weight and temperature, as functions of the update."""

import math

from training.config import Cosine, DALLETraining


def cosine(schedule: Cosine, update: int) -> float:
    """Half a cosine from start to end, constant afterwards (arXiv 2102.12092, A.2)."""
    done = min(max(update / max(schedule.updates, 1), 0.0), 1.0)
    return schedule.end + (schedule.start - schedule.end) * (1 + math.cos(math.pi * done)) / 2


def warmup_factor(training: DALLETraining, update: int) -> float:
    """Linear from 0 to 1 over the warm-up (arXiv 2102.12092, B.2)."""
    return min((update + 1) / max(training.warmup, 1), 1.0)


def step_size(training: DALLETraining, update: int, halvings: int) -> float:
    """Step size of the transformer at `update`, after `halvings` plateaus."""
    warm = training.step_size * warmup_factor(training, update)
    if training.decay == "plateau":
        return warm * 0.5**halvings
    length = max(training.updates - training.warmup, 1)
    end = training.step_size / 2**training.halvings
    falling = cosine(Cosine(training.step_size, end, length), update - training.warmup)
    return min(warm, falling)


class Plateau:
    """Counts plateaus of the training loss.

    The rule, which the paper leaves open: the loss is averaged over windows of `window` updates;
    after `patience` windows in a row without a gain of `least` (relative) over the best window,
    the step size is halved and the count starts again.
    """

    def __init__(self, window: int = 1000, patience: int = 5, least: float = 0.002):
        self.window, self.patience, self.least = window, patience, least
        self.halvings = 0
        self._best = math.inf
        self._waited = 0
        self._sum = 0.0
        self._count = 0

    def update(self, loss: float) -> int:
        """Take one update's loss; return the number of halvings so far."""
        self._sum += loss
        self._count += 1
        if self._count == self.window:
            mean = self._sum / self._count
            self._sum, self._count = 0.0, 0
            if mean < self._best * (1 - self.least):
                self._best, self._waited = mean, 0
            else:
                self._waited += 1
            if self._waited == self.patience:
                self.halvings, self._waited, self._best = self.halvings + 1, 0, mean
        return self.halvings

    def state(self) -> dict[str, float]:
        """Everything a resumed run needs, as plain numbers."""
        return {
            "halvings": self.halvings,
            "best": self._best,
            "waited": self._waited,
            "sum": self._sum,
            "count": self._count,
        }

    def load(self, state: dict[str, float]) -> None:
        """Take over `state()` of an earlier run."""
        self.halvings = int(state["halvings"])
        self._best, self._waited = state["best"], int(state["waited"])
        self._sum, self._count = state["sum"], int(state["count"])
