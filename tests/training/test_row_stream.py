import collections
import dataclasses
import hashlib
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import SplitConfig
from training.errors import InputError
from training.row_stream import Position, RowStream
from training.splits import Split

ROWS = 97
GROUP = 7
EVERYTHING = SplitConfig(validation=0.0)
PARTS = SplitConfig(validation=0.25, held_out=("red .* heart", "^x"))


def caption(row: int) -> str:
    return f"red {row} heart" if row % 6 == 0 else f"caption {row}"


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files with row groups of 7 rows, `number` counting all rows."""
    directory = tmp_path_factory.mktemp("rows")
    found = []
    for index, numbers in enumerate((range(40), range(40, ROWS))):
        table = pa.table(
            {
                "uid": pa.array(
                    [hashlib.sha256(b"%d" % n).digest()[:16] for n in numbers], pa.binary(16)
                ),
                "caption": [caption(n) for n in numbers],
                "number": list(numbers),
                "unread": ["x"] * len(numbers),
            }
        )
        path = directory / f"part-{index}.parquet"
        pq.write_table(table, path, row_group_size=GROUP)
        found.append(str(path))
    return found


def stream(urls: list[str], split: Split = Split.TRAIN, **options: object) -> RowStream:
    splits = options.pop("splits", EVERYTHING)
    return RowStream(urls, ["number"], split, splits, **options)  # type: ignore[arg-type]


def numbers(table: pa.Table) -> list[int]:
    return table["number"].to_pylist()


def one_epoch(rows: RowStream) -> list[int]:
    """The numbers of an epoch, taken one by one."""
    found = []
    for table in rows.batches(1):
        if rows.position.epoch > 0:
            return found
        found += numbers(table)
    raise AssertionError


@settings(max_examples=30)
@given(
    world=st.integers(1, 4),
    window=st.sampled_from([1, 10, 30, 1000]),
    seed=st.integers(0, 3),
    batch=st.integers(1, 25),
    stops=st.lists(st.integers(1, 9), max_size=6),
)
def test_no_row_is_lost_or_doubled(
    urls: list[str], world: int, window: int, seed: int, batch: int, stops: list[int]
) -> None:
    """Whatever the processes, windows and interruptions: each epoch gives each row once."""
    order: list[list[int]] = []
    for rank in range(world):
        options = {"seed": seed, "rank": rank, "world": world, "window_rows": window}
        whole = stream(urls, **options)
        batches = 2 * ROWS // (world * batch) + 2
        expected = list(itertools.islice(whole.batches(batch), batches))

        position: dict[str, int] = dataclasses.asdict(Position())
        found: list[pa.Table] = []
        for stop in [*stops, batches]:
            resumed = stream(urls, **options)
            resumed.position = Position(**position)
            wanted = min(stop, batches - len(found))
            found += itertools.islice(resumed.batches(batch), wanted)
            position = dataclasses.asdict(resumed.position)
        assert [numbers(t) for t in found] == [numbers(t) for t in expected]
        assert all(t.num_rows == batch for t in found)
        order.append([n for t in found for n in numbers(t)])

    epoch = [one_epoch(stream(urls, seed=seed, rank=r, world=world, window_rows=window))
             for r in range(world)]  # fmt: skip
    assert len({len(rows) for rows in epoch}) == 1  # no process waits for another
    assert [rows[: len(e)] for rows, e in zip(order, epoch, strict=True)] == epoch
    counts = collections.Counter(n for rows in epoch for n in rows)
    assert set(counts.values()) == {1}
    windows = len(stream(urls, seed=seed, window_rows=window)._windows(0))
    assert ROWS - windows * (world - 1) <= len(counts) <= ROWS
    if world == 1:
        assert len(counts) == ROWS


def test_epochs_have_different_orders_and_the_same_rows(urls: list[str]) -> None:
    rows = stream(urls, window_rows=30)
    taken = [n for t in itertools.islice(rows.batches(1), 2 * ROWS) for n in numbers(t)]
    first, second = taken[:ROWS], taken[ROWS:]
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != sorted(first)
    assert one_epoch(stream(urls, window_rows=30, seed=1)) != first


def test_rows_of_a_window_are_mixed(urls: list[str]) -> None:
    taken = one_epoch(stream(urls, window_rows=1000))
    together = sum(a // GROUP == b // GROUP for a, b in itertools.pairwise(taken))
    assert together < ROWS / 4


def test_splits_are_disjoint_and_complete(urls: list[str]) -> None:
    found = {
        split: set(numbers(stream(urls, split, splits=PARTS).all_rows(1000))) for split in Split
    }
    assert sum(map(len, found.values())) == ROWS
    assert set.union(*found.values()) == set(range(ROWS))
    assert found[Split.HELD_OUT] == set(range(0, ROWS, 6))
    assert 0.1 < len(found[Split.VALIDATION]) / (ROWS - len(found[Split.HELD_OUT])) < 0.4
    for split, expected in found.items():
        assert set(one_epoch(stream(urls, split, splits=PARTS))) == expected


def test_a_split_does_not_depend_on_files_or_rank(urls: list[str]) -> None:
    both = numbers(stream(urls, Split.VALIDATION, splits=PARTS).all_rows(1000))
    second = numbers(stream(urls[1:], Split.VALIDATION, splits=PARTS).all_rows(1000))
    assert [n for n in both if n >= 40] == second
    other = stream(urls, Split.VALIDATION, splits=PARTS, rank=1, world=3, seed=5)
    assert numbers(other.all_rows(1000)) == both
    assert numbers(other.all_rows(3)) == both[:3]


def test_held_out_ignores_case(urls: list[str]) -> None:
    splits = SplitConfig(validation=0.0, held_out=("RED .* HEART",))
    assert numbers(stream(urls, Split.HELD_OUT, splits=splits).all_rows(2)) == [0, 6]


def test_only_the_wanted_columns_are_read(urls: list[str]) -> None:
    assert stream(urls).all_rows(1).column_names == ["uid", "caption", "number"]


def test_an_empty_split_is_an_error_and_not_a_hang(urls: list[str]) -> None:
    with pytest.raises(InputError, match="the data holds 0 rows of the validation split"):
        next(stream(urls, Split.VALIDATION).batches(4))
    with pytest.raises(InputError, match="0 rows of the validation split, at least 2 are needed"):
        stream(urls, Split.VALIDATION).all_rows(10, least=2)
    assert stream(urls, Split.VALIDATION).all_rows(10).num_rows == 0
    with pytest.raises(InputError, match="the data holds 0 rows"):
        stream([])


def test_resuming_at_the_very_end_of_an_epoch(urls: list[str]) -> None:
    rows = stream(urls, window_rows=30)
    taken = list(itertools.islice(rows.batches(ROWS), 2))
    resumed = stream(urls, window_rows=30)
    first = resumed.batches(ROWS)
    next(first)
    again = stream(urls, window_rows=30)
    again.position = resumed.position
    assert numbers(next(again.batches(ROWS))) == numbers(taken[1])
