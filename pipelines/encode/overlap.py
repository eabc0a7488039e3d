"""Work of several steps at the same time, in order and with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

import numpy as np
import numpy.typing as npt

A = TypeVar("A")
B = TypeVar("B")


def ahead(work: Callable[[A], B], items: Iterable[A], executor: Executor, most: int) -> Iterator[B]:
    """Results in the order of `items`, at most `most` of them begun and not yet taken.

    Steps chain: while the taker is busy with a result, the executor works on those behind it,
    and `items` itself may be such an iterator.
    """
    begun: deque[Future[B]] = deque()
    for item in items:
        begun.append(executor.submit(work, item))
        if len(begun) == most:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def full(arrays: Iterable[npt.NDArray[np.uint8]], rows: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Arrays joined and cut along their first axis to `rows` each; the last may have fewer."""
    waiting: list[npt.NDArray[np.uint8]] = []
    count = 0
    for array in arrays:
        waiting.append(array)
        count += len(array)
        if count < rows:
            continue
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        whole = count - count % rows
        for start in range(0, whole, rows):
            yield joined[start : start + rows]
        waiting, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)
