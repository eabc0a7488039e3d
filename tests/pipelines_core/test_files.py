"""storage, parquet, ledger, layout."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ledger, parquet, storage
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel, LedgerError

SCHEMA = pa.schema([pa.field("n", pa.int32(), nullable=False), pa.field("s", pa.string())])


def batches(*sizes: int) -> list[pa.RecordBatch]:
    out, start = [], 0
    for size in sizes:
        numbers = list(range(start, start + size))
        columns = [pa.array(numbers, pa.int32()), pa.array([str(n) for n in numbers])]
        out.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        start += size
    return out


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    yield url
    storage.remove(url, recursive=True)


def test_files_on_any_storage(root: str) -> None:
    url = join(root, "a", "b.json")
    assert not storage.exists(url)
    assert storage.list_files(join(root, "a")) == []
    storage.write_json(url, {"b": 1, "a": "ü"})
    assert storage.read_json(url) == {"a": "ü", "b": 1}
    storage.write_json(url, {"a": 2})
    assert storage.list_files(join(root, "a"), ".json") == [url]
    assert storage.list_files(join(root, "a"), ".txt") == []
    storage.remove(url)
    storage.remove(url)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(url)
    storage.write_bytes(url, b"{")
    with pytest.raises(ValueError, match=r"b\.json is not valid JSON"):
        storage.read_json(url)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    url = str(tmp_path / "file")
    storage.write_bytes(url, b"old")
    with pytest.raises(ZeroDivisionError), storage.atomic_output(url) as stream:
        stream.writelines(b"new" if n else b"%d" % (1 // n) for n in (1, 0))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert storage.read_bytes(url) == b"old"


def test_a_killed_write_is_never_seen(tmp_path: Path) -> None:
    url = str(tmp_path / "part.parquet")
    script = (
        "import os, signal; from pipelines import storage\n"
        f"with storage.atomic_output({url!r}) as stream:\n"
        "    stream.write(b'x' * 100000); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert storage.list_files(str(tmp_path)) == []
    assert len(os.listdir(tmp_path)) == 1  # the temporary file, which no reader lists


def test_parquet_says_what_it_wrote(root: str) -> None:
    url = join(root, "part.parquet")
    written = parquet.write(url, batches(5, 0, 3), SCHEMA.with_metadata({"k": "v"}))
    data = storage.read_bytes(url)
    assert (written.rows, written.bytes) == (8, len(data))
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert parquet.read_schema(url).metadata == {b"k": b"v"}
    read = list(parquet.read_batches(url, rows=3))
    assert [b.num_rows for b in read] == [3, 3, 2]
    assert pa.Table.from_batches(read).column("n").to_pylist() == list(range(8))
    assert parquet.write(url, batches(2, 6), SCHEMA.with_metadata({"k": "v"})) == written


def test_column_hash_ignores_layout_and_other_columns(tmp_path: Path) -> None:
    one, two, other = (str(tmp_path / name) for name in ("one", "two", "other"))
    parquet.write(one, batches(9), SCHEMA)
    parquet.write(two, batches(9), SCHEMA, row_group_rows=2, compression="none")
    parquet.write(other, batches(8), SCHEMA)
    assert parquet.column_hash(one, ["n"]) == parquet.column_hash(two, ["n"])
    assert parquet.column_hash(one, ["n"]) != parquet.column_hash(one, ["n", "s"])
    assert parquet.column_hash(one, ["n"]) != parquet.column_hash(other, ["n"])


def test_an_empty_table_is_a_file(tmp_path: Path) -> None:
    url = str(tmp_path / "part.parquet")
    assert parquet.write(url, [], SCHEMA).rows == 0
    assert pq.read_table(url).schema.equals(SCHEMA)


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 9))
def test_regroup_cuts_exactly(sizes: list[int], rows: int) -> None:
    tables = list(parquet.regroup(batches(*sizes), rows))
    assert [t.num_rows for t in tables[:-1]] == [rows] * (len(tables) - 1)
    assert all(0 < t.num_rows <= rows for t in tables)
    numbers = [n for t in tables for n in t.column("n").to_pylist()]
    assert numbers == list(range(sum(sizes)))


def test_row_groups_of_large_values_end_early(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("image", pa.binary(), nullable=False)])
    picture = bytes(10_000_000)
    rows = (pa.record_batch([pa.array([picture])], schema=schema) for _ in range(20))
    url = str(tmp_path / "part.parquet")
    assert parquet.write(url, rows, schema, row_group_rows=64).rows == 20
    held = [batch.nbytes for batch in parquet.read_batches(url, rows=64)]
    assert len(held) == 3
    assert max(held) <= 71_000_000


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"n": [1]}), "missing columns"),
        (pa.table({"n": [1, None], "s": ["a", "b"]}), "column 'n' holds 1 nulls"),
        (pa.table({"n": ["x"], "s": ["a"]}), "x"),
    ],
)
def test_rows_outside_the_schema_write_nothing(
    tmp_path: Path, table: pa.Table, message: str
) -> None:
    with pytest.raises(pa.ArrowInvalid, match=message):
        parquet.write(str(tmp_path / "part"), table.to_batches(), SCHEMA)
    assert list(tmp_path.iterdir()) == []


def finished(**changes: object) -> Finished:
    plain = {"dataset": "d", "fingerprint": "f", "content": "c", "rows": 1, "bytes": 2}
    return Finished(**plain | {"funnel": Funnel(3, 1, {"too_short": 2})} | changes)


def test_marker_round_trip(root: str) -> None:
    directory = join(root, "dataset")
    assert ledger.read_success(directory) is None
    with pytest.raises(FileNotFoundError, match="is not finished"):
        ledger.require_success(directory)
    ledger.write_success(directory, finished(details={"sha256": "s"}))
    assert ledger.require_success(directory) == finished(details={"sha256": "s"})


def test_counts_that_do_not_add_up_leave_no_marker(root: str) -> None:
    with pytest.raises(LedgerError, match="4 rows in, but 1 kept"):
        ledger.write_success(root, finished(funnel=Funnel(4, 1, {"too_short": 2})))
    assert not storage.exists(join(root, ledger.SUCCESS))


@pytest.mark.parametrize("value", [{"funnel": {}}, {}, {"dataset": "d"}, {"funnel": {"kept": 0}}])
def test_a_foreign_marker_is_named(tmp_path: Path, value: object) -> None:
    (tmp_path / ledger.SUCCESS).write_text(json.dumps(value))
    with pytest.raises(ValueError, match="is not a marker of this version"):
        ledger.read_success(str(tmp_path))


FUNNELS = st.builds(
    lambda kept, dropped: Funnel(kept + sum(dropped.values()), kept, dropped),
    st.integers(0, 99),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)),
)


@given(FUNNELS, FUNNELS)
def test_funnels_add_up(one: Funnel, two: Funnel) -> None:
    both = one + two
    both.check("sum")
    assert both.rows_in == one.rows_in + two.rows_in
    assert both == two + one
    assert Funnel() + one == Funnel() + (one + Funnel())


def test_fingerprint_covers_all_that_it_is_given() -> None:
    base = ledger.fingerprint("1", Funnel(1), ["a", "b"])
    assert base == ledger.fingerprint("1", Funnel(1), ["a", "b"])
    others = [
        ("2", Funnel(1), ["a", "b"]),
        ("1", Funnel(2), ["a", "b"]),
        ("1", Funnel(1), ["b", "a"]),
    ]
    assert base not in {ledger.fingerprint(*other) for other in others}
    assert ledger.content_hash({"a": "1", "b": "2"}) == ledger.content_hash({"b": "2", "a": "1"})
    assert ledger.content_hash({"a": "1"}) != ledger.content_hash({"b": "1"})


def test_layout_joins_any_url() -> None:
    layout = Layout("s3://bucket/data")
    assert layout.dataset("curated_pairs", "b1") == "s3://bucket/data/curated_pairs/batch=b1"
    assert layout.rejects("curate", "b1") == "s3://bucket/data/rejects/stage=curate/batch=b1"
    assert layout.model("dvae") == "s3://bucket/data/models/dvae"
    paths = {layout.tokenizer, layout.token_dataset, layout.samples, layout.evaluation}
    assert len(paths) == 4
    assert join("/data/", "a") == "/data/a"


def test_a_directory_is_not_among_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 store gives it where the first file appears between two of its requests."""
    storage.write_bytes("memory://filling/a/b", b"1")
    find = MemoryFileSystem.find

    def racing(fs: MemoryFileSystem, path: str, **options: Any) -> dict[str, Any]:
        itself = {path: {"name": path, "type": "directory", "size": 0}}
        return itself | find(fs, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "find", racing)
    assert list(storage.tree("memory://filling")) == ["a/b"]
