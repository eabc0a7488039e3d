import itertools
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.publish.shuffle import Shuffle, split

SCHEMA = pa.schema(
    [
        ("uid", pa.binary(16)),
        ("crop_id", pa.uint8()),
        ("crawl_batch", pa.string()),
        ("codes", pa.list_(pa.uint16(), 2)),
    ]
)
Row = tuple[int, int, str]


def batch(rows: list[Row]) -> pa.RecordBatch:
    columns = [
        pa.array([n.to_bytes(16, "big") for n, _, _ in rows], pa.binary(16)),
        pa.array([crop for _, crop, _ in rows], pa.uint8()),
        pa.array([name for _, _, name in rows], pa.string()),
        pa.array([[n, crop] for n, crop, _ in rows], pa.list_(pa.uint16(), 2)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def shuffled(rows: list[Row], chunk: int, bucket_rows: int, seed: int = 0) -> tuple[list, list]:
    with tempfile.TemporaryDirectory() as directory:
        shuffle = Shuffle(f"{directory}/buckets", len(rows), bucket_rows, seed)
        for start in range(0, len(rows), chunk):
            shuffle.add(batch(rows[start : start + chunk]))
        repeated = [row for table in shuffle.sort() for row in table.to_pylist()]
        kept = [row for found in shuffle.rows() for row in found.to_pylist()]
        assert kept == [row for found in shuffle.rows() for row in found.to_pylist()]
    return kept, repeated


ROWS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2), st.sampled_from("abc")), unique=True
)


@given(ROWS, st.integers(1, 20), st.integers(1, 20))
def test_every_row_once_in_an_order_of_its_own(rows: list[Row], chunk: int, size: int) -> None:
    kept, repeated = shuffled(rows, chunk, size)
    first = {}
    for number, crop, name in sorted(rows, key=lambda row: row[2]):
        first.setdefault((number, crop), name)
    found = {(r["codes"][0], r["codes"][1]): r["crawl_batch"] for r in kept}
    assert found == first
    assert len(kept) == len(first)
    assert len(repeated) == len(rows) - len(first)
    assert shuffled(rows[::-1], 7, 1000)[0] == kept


def test_the_order_is_random_and_the_seeds() -> None:
    rows = [(n, 0, "a") for n in range(1000)]
    order = [row["codes"][0] for row in shuffled(rows, 100, 50)[0]]
    steps = sum(a < b for a, b in itertools.pairwise(order))
    assert 440 < steps < 560
    assert order != [row["codes"][0] for row in shuffled(rows, 100, 50, seed=1)[0]]


@given(st.lists(st.integers(0, 9)), st.integers(1, 12))
def test_split_cuts_files(sizes: list[int], limit: int) -> None:
    numbers = iter(range(sum(sizes)))
    batches = [pa.record_batch({"n": [next(numbers) for _ in range(size)]}) for size in sizes]
    parts = [[n for b in part for n in b["n"].to_pylist()] for part in split(batches, limit)]
    assert [n for part in parts for n in part] == list(range(sum(sizes)))
    assert all(len(part) == limit for part in parts[:-1])
    assert all(parts)


def test_the_workspace_must_be_empty(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        Shuffle(str(tmp_path), 1, 1, 0)
