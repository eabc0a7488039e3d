import collections
import dataclasses
import hashlib
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.checkpoints.resume_position import position_for
from training.config import SplitConfig
from training.errors import InputError
from training.row_stream import Position, RowStream
from training.runtime import Runtime
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


@settings(max_examples=25)
@given(
    world=st.integers(1, 5),
    window=st.sampled_from([1, 10, 30, 1000]),
    seed=st.integers(0, 3),
    batch=st.integers(1, 25),
    split=st.sampled_from([EVERYTHING, PARTS]),
    stops=st.lists(st.integers(1, 9), max_size=6),
)
def test_no_row_is_lost_or_doubled(
    urls: list[str],
    world: int,
    window: int,
    seed: int,
    batch: int,
    split: SplitConfig,
    stops: list[int],
) -> None:
    """Whatever the processes, windows and interruptions: each epoch gives each row once."""
    options = {"seed": seed, "world": world, "window_rows": window, "splits": split}
    every = numbers(stream(urls, splits=split).all_rows(ROWS))
    batches = 2 * len(every) // (world * batch) + 2
    given_rows: list[tuple[int, int]] = []
    for rank in range(world):
        expected = list(
            itertools.islice(stream(urls, rank=rank, **options).batches(batch), batches)
        )
        assert all(t.num_rows == batch for t in expected)

        position: dict[str, int] = dataclasses.asdict(Position())
        found: list[pa.Table] = []
        for stop in [*stops, batches]:
            resumed = stream(urls, rank=rank, **options)
            resumed.position = Position(**position)
            wanted = min(stop, batches - len(found))
            found += itertools.islice(resumed.batches(batch), wanted)
            position = dataclasses.asdict(resumed.position)
        assert [numbers(t) for t in found] == [numbers(t) for t in expected]
        given_rows += [
            pair for t in found for pair in zip(t["epoch"].to_pylist(), numbers(t), strict=True)
        ]

    counts = collections.Counter(given_rows)
    assert set(counts.values()) == {1}
    # All processes took as many rows; what they took are the first rows of the endless order.
    alone = stream(urls, seed=seed, window_rows=window, splits=split)
    order = numbers(next(alone.batches(len(given_rows))))
    whole = len(given_rows) // len(every)
    assert whole >= 2
    for epoch in range(whole):
        assert sorted(n for e, n in counts if e == epoch) == sorted(every)
    assert sorted(n for e, n in counts) == sorted(order)


@settings(max_examples=25)
@given(
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    batches=st.integers(1, 6),
    window=st.sampled_from([1, 10, 30, 1000]),
    split=st.sampled_from([EVERYTHING, PARTS]),
)
def test_another_number_of_processes_goes_on_at_the_very_next_row(
    urls: list[str], worlds: list[int], batches: int, window: int, split: SplitConfig
) -> None:
    """Together they take a beginning of the endless order: each row once in an epoch."""
    taken: list[tuple[int, int]] = []
    first, before = Position(), worlds[0]
    for world in worlds:
        positions = []
        for rank in range(world):
            runtime = Runtime(rank, world, torch.device("cpu"))
            rows = stream(urls, rank=rank, world=world, window_rows=window, splits=split)
            rows.position = position_for(first, before, {}, runtime)
            for table in itertools.islice(rows.batches(5), batches):
                taken += zip(table["epoch"].to_pylist(), numbers(table), strict=True)
            positions.append(rows.position)
        first, before = positions[0], world
    whole = next(stream(urls, window_rows=window, splits=split).batches(len(taken)))
    order = zip(whole["epoch"].to_pylist(), numbers(whole), strict=True)
    assert sorted(taken) == sorted(order)


def test_no_process_is_ahead_of_another(urls: list[str]) -> None:
    """After any number of batches, processes have together taken a beginning of the order."""
    alone = [numbers(t)[0] for t in itertools.islice(stream(urls).batches(1), 60)]
    three = [stream(urls, rank=rank, world=3).batches(4) for rank in range(3)]
    found = [numbers(next(rows)) for _ in range(5) for rows in three]
    assert sorted(n for table in found for n in table) == sorted(alone)


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


def test_of_a_row_group_without_the_split_only_what_tells_so_is_read(tmp_path: Path) -> None:
    """What is never read may be anything: here the numbers of the first row group are torn."""
    rows = 20
    table = pa.table(
        {
            "uid": pa.array([bytes(16)] * rows, pa.binary(16)),
            "caption": [f"red {n} heart" if n >= 10 else "a cat" for n in range(rows)],
            "number": list(range(rows)),
        }
    )
    path = tmp_path / "part.parquet"
    pq.write_table(table, path, row_group_size=10, compression="none")
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
    with open(path, "r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)
    found = stream([str(path)], Split.HELD_OUT, splits=PARTS).all_rows(100)
    assert numbers(found) == list(range(10, 20))
    with pytest.raises(InputError, match=r"part.parquet cannot be read: .*thrift.* copy it or"):
        stream([str(path)], Split.TRAIN).all_rows(100)
    path.write_bytes(b"no Parquet at all")
    with pytest.raises(InputError, match=r"part.parquet cannot be read: .*Parquet magic bytes"):
        stream([str(path)])
