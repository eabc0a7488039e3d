"""The moment that an exchange with a server must end by."""

import time

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
