"""Memory of pictures, kept by the process instead of given back after each."""

import ctypes

# Parameters of mallopt(3), and what suits pictures.
_TRIM_THRESHOLD, _TRIM_BYTES = -1, 1 << 27
_MMAP_THRESHOLD, _MMAP_BYTES = -3, 1 << 25


def keep_large_blocks() -> None:
    """Reuse freed blocks of up to 32 MB, at most 128 MB of them at the end of the heap.

    Else glibc gives a picture's pages back and faults them in again for the next one, which takes
    as long as the work on it. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
