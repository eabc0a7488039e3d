"""One limit for the bytes of all bodies that a worker holds, whatever their sizes."""

import ctypes
import math
import threading

_M_MMAP_THRESHOLD = -3  # mallopt(3)
_OWN_PAGES_BYTES = 1 << 20


def give_large_blocks_back() -> None:
    """Have glibc return every freed body to the system; other C libraries are left as they are.

    Otherwise it raises its limit for that with each large block, and what many threads free stays
    with the process: 60 bodies of 19 MB then took 950 MB at most instead of 750.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)


class ByteBudget:
    """Bytes taken before they are received and given back when they are held no more.

    Safe for threads. Who holds bytes never waits here for others: each body takes once, and the
    thread that gives back takes nothing, so that everybody's turn comes.
    """

    def __init__(self, most: float):
        """Let `most` bytes be held."""
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    def take(self, size: int, wait_s: float | None = None) -> bool:
        """Take `size` bytes when they fit; a body larger than the whole budget fits alone.

        False, and nothing is taken, if they do not within `wait_s` (None: however long it takes).
        """
        with self._changed:
            fits = self._changed.wait_for(
                lambda: not self._held or self._held + size <= self._most, wait_s
            )
            if fits:
                self._held += size
            return fits

    def give(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()


UNLIMITED = ByteBudget(math.inf)
