"""The moment that an exchange with a server must end by."""

import time
from dataclasses import dataclass

from pipelines.crawl.http.outcomes import FetchError, Outcome


class Deadline:
    """A moment that a whole exchange must end by."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._seconds = seconds

    def left(self) -> float:
        """Seconds left; raises `FetchError` if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchError(Outcome.TIMEOUT, f"not finished after {self._seconds:g} s")
        return left

    def extend(self, seconds: float) -> None:
        """Move the deadline: time spent waiting for others is not the server's."""
        self._end += seconds


@dataclass
class Patience:
    """What one URL may still wait for others, over all its redirects and tries.

    Attributes:
        wait_s: for turns at hosts.
        rules_s: for robots.txt and tdmrep.json, beyond the deadline of its own exchanges.
    """

    wait_s: float
    rules_s: float

    def wait(self, seconds: float) -> float:
        """Take `seconds` out of `wait_s`; gives how many were in it."""
        taken = min(seconds, self.wait_s)
        self.wait_s -= taken
        return taken

    def wait_for_rules(self, seconds: float) -> float:
        """Take `seconds` out of `rules_s`; gives how many were in it."""
        taken = min(seconds, self.rules_s)
        self.rules_s -= taken
        return taken
