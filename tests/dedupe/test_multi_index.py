import numpy as np
import pytest

from pipelines.dedupe import multi_index
from pipelines.dedupe.hashes import distances
from pipelines.dedupe.multi_index import MultiIndex


def brute_force(queries: np.ndarray, rows: np.ndarray, radius: int) -> set[tuple[int, int]]:
    apart = distances(queries[:, None, :], rows[None, :, :])
    return set(zip(*(places.tolist() for places in np.nonzero(apart <= radius)), strict=True))


def flipped(hashes: np.ndarray, bits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    flat = np.unpackbits(hashes, axis=1)
    for row, count in zip(flat, bits, strict=True):
        row[rng.choice(64, count, replace=False)] ^= 1
    return np.packbits(flat, axis=1)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 7, 10, 13])
def test_all_and_only_the_rows_within_the_radius_are_found(radius: int) -> None:
    rng = np.random.default_rng(radius)
    rows = rng.integers(0, 256, (5000, 8), dtype=np.uint8)
    rows[:, 0] |= 128  # as the constant term of every picture does
    rows[4000:] = rows[0]  # one value that is everywhere
    queries = flipped(rows[rng.integers(0, 5000, 300)], rng.integers(0, radius + 4, 300), rng)
    found = MultiIndex(rows).within(queries, radius)
    pairs = list(zip(found.queries.tolist(), found.rows.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert set(pairs) == brute_force(queries, rows, radius)


def test_pieces_of_bounded_memory_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (3000, 8), dtype=np.uint8)
    rows[1000:2000] = rows[0]
    queries = flipped(rows[:150], np.full(150, 6), rng)
    whole = MultiIndex(rows).within(queries, 10)
    monkeypatch.setattr(multi_index, "_ROWS", 64)
    monkeypatch.setattr(multi_index, "_QUERIES", 7)
    pieces = MultiIndex(rows).within(queries, 10)
    assert all((a == b).all() for a, b in zip(whole, pieces, strict=True))
    assert len(whole.rows) > 1000


def test_nothing_is_found_in_nothing() -> None:
    none, one = np.empty((0, 8), np.uint8), np.zeros((1, 8), np.uint8)
    assert len(MultiIndex(none).within(one, 10).rows) == 0
    assert len(MultiIndex(one).within(none, 10).rows) == 0
    assert MultiIndex(one).within(one, 64).rows.tolist() == [0]
