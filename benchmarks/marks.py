"""A mark: our time beside a peer's or a limit's, taken in turn in one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

_ROUNDS = 5


@dataclass(frozen=True)
class Mark:
    """One ratio.

    Attributes:
        name: what is measured.
        ours: median CPU seconds of our code, or another cost.
        peer: median CPU seconds of the peer, or of the limit.
        against: who the peer is.
        least: the ratio peer / ours that docs/performance.md asks for; None where it asks none.
        unit: of both, where they are no seconds.
    """

    name: str
    ours: float
    peer: float
    against: str
    least: float | None
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """How many times the peer's speed ours is."""
        return self.peer / self.ours


def compare(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int = _ROUNDS
) -> tuple[float, float]:
    """Median CPU seconds of both, run in turn, so that a slow machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, kept in zip((ours, peer), seconds, strict=True):
            start = time.process_time()
            work()
            kept.append(time.process_time() - start)
    return median(seconds[0]), median(seconds[1])
