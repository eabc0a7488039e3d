"""Exact search of 64-bit hashes by Hamming distance: four indexed bands of 16 bits.

Two hashes at most r apart agree in at least one band to within a share of r, so looking up the
few values near a query's bands finds all of them, and only those few rows are compared
(Norouzi, Punjani, Fleet: "Fast Search in Hamming Space with Multi-Index Hashing",
arXiv 1307.2982). With 1.6 million rows and radius 10 that is one row in 150.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

_BANDS = 4
_BITS = 16
_VALUES = 1 << _BITS
# Queries that are looked up together, and rows that are compared at once (about 50 MB).
_QUERIES = 64
_ROWS = 1 << 20


class Pairs(NamedTuple):
    """Places of queries and of the rows near them: int64 [P] each, by query, then row."""

    queries: np.ndarray
    rows: np.ndarray


class MultiIndex:
    """An index over uint8 [N, 8]; finds all rows within a radius, none is missed."""

    def __init__(self, hashes: np.ndarray):
        values = words(hashes)
        bands = _bands(values)
        self._orders = [np.argsort(bands[b], kind="stable").astype(np.int32) for b in range(_BANDS)]
        self._values = [values[order] for order in self._orders]
        counts = [np.bincount(bands[b], minlength=_VALUES) for b in range(_BANDS)]
        self._starts = [np.concatenate([[0], np.cumsum(c)]) for c in counts]
        self._cost = [float(np.square(c.astype(np.float64)).sum()) for c in counts]

    def within(self, queries: np.ndarray, radius: int) -> Pairs:
        """Every (query, row) at most `radius` bits apart.

        Args:
            queries: uint8 [Q, 8].
            radius: 0 to 64.
        """
        values = words(queries)
        reach = self._reach(radius)
        found: list[np.ndarray] = [np.empty(0, np.int64)]
        for first in range(0, len(values), _QUERIES):
            some = values[first : first + _QUERIES]
            for band in range(_BANDS):
                if reach[band] >= 0:
                    near = _masks(reach[band])
                    for rows, places in self._band(band, near, some, radius):
                        found.append((rows + first) << 32 | places)
        both = np.unique(np.concatenate(found))
        return Pairs(both >> 32, both & 0xFFFFFFFF)

    def _band(
        self, band: int, near: np.ndarray, queries: np.ndarray, radius: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (place in `queries`, row) of what one band finds, in pieces of bounded memory."""
        probes = (_bands(queries)[band][:, None] ^ near).ravel().astype(np.int64)
        starts = self._starts[band][probes]
        lengths = self._starts[band][probes + 1] - starts
        owners = np.repeat(np.arange(len(queries)), len(near))
        pieces = np.cumsum(lengths) // _ROWS
        for piece in np.unique(pieces):
            own = pieces == piece
            length, ends = lengths[own], np.cumsum(lengths[own])
            places = np.arange(ends[-1]) + np.repeat(starts[own] - (ends - length), length)
            asked = np.repeat(owners[own], length)
            apart = np.bitwise_count(self._values[band][places] ^ queries[asked])
            hits = np.flatnonzero(apart <= radius)
            yield asked[hits], self._orders[band][places[hits]].astype(np.int64)

    def _reach(self, radius: int) -> list[int]:
        """How far each band is searched; -1 for not at all.

        The bands' (reach + 1) must add up to more than the radius; the bands that hold the most
        rows a value are spared.
        """
        each, over = divmod(radius, _BANDS)
        reach = [each] * (over + 1) + [each - 1] * (_BANDS - 1 - over)
        cheapest = np.argsort(self._cost, kind="stable")
        return [reach[list(cheapest).index(band)] for band in range(_BANDS)]


def words(hashes: np.ndarray) -> np.ndarray:
    """Packed hashes uint8 [N, 8 W] as uint64 [N, W], or [N] where W is 1."""
    found = np.ascontiguousarray(hashes, np.uint8).view(np.uint64)
    return found[:, 0] if found.shape[1] == 1 else found


def _bands(values: np.ndarray) -> np.ndarray:
    """uint64 [N] as uint16 [4, N]."""
    return np.ascontiguousarray(values.view(np.uint16).reshape(-1, _BANDS).T)


@cache
def _masks(reach: int) -> np.ndarray:
    """All 16-bit words with at most `reach` bits set, uint16."""
    return np.array(
        [
            sum(1 << bit for bit in bits)
            for count in range(min(reach, _BITS) + 1)
            for bits in combinations(range(_BITS), count)
        ],
        np.uint16,
    )
