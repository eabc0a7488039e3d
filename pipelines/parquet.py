"""Parquet shards: atomic writes, streaming reads, hashes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

# A row group of large pictures ends before its number of rows: readers hold one in memory.
_GROUP_BYTES = 64_000_000


@dataclass(frozen=True)
class WrittenFile:
    """What was written: `bytes` on disk and the SHA-256 of the file, in hex."""

    rows: int
    bytes: int
    sha256: str


class _Hashing:
    """A binary stream that hashes and counts what passes."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self.hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.hash.update(view)
        self.bytes += view.nbytes
        return self._stream.write(view)

    def flush(self) -> None:
        self._stream.flush()

    def tell(self) -> int:
        return self.bytes

    def close(self) -> None:
        self.closed = True


def write(
    url: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    *,
    row_group_rows: int = 4096,
    **writer_options: Any,
) -> WrittenFile:
    """Stream record batches into one Parquet file that appears only when complete.

    Args:
        url: where; any fsspec URL.
        batches: rows in `schema`'s columns (they are cast, so nullability is enforced).
        schema: from `pipelines.schemas`, perhaps with provenance added to its metadata.
        row_group_rows: upper limit of a row group.
        writer_options: further options of `pyarrow.parquet.ParquetWriter`.

    Raises:
        pa.ArrowInvalid: if a batch does not fit the schema; nothing is then written.
    """
    options = {"compression": "zstd", "write_page_index": True} | writer_options
    rows = 0
    with storage.atomic_output(url) as stream:
        counted = _Hashing(stream)
        with pq.ParquetWriter(counted, schema, **options) as writer:
            for batch in regroup(batches, row_group_rows):
                rows += batch.num_rows
                writer.write_table(conform(batch, schema), row_group_size=row_group_rows)
    return WrittenFile(rows, counted.bytes, counted.hash.hexdigest())


def regroup(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Cut and join batches into tables of `rows` rows.

    The last may have fewer, and so has one whose batches come to `_GROUP_BYTES` before.
    """
    waiting: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        size += batch.nbytes
        if count < rows and size < _GROUP_BYTES:
            continue
        table = pa.Table.from_batches(waiting)
        whole = count if size >= _GROUP_BYTES else count - count % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        waiting = table.slice(whole).to_batches()
        count -= whole
        size = sum(batch.nbytes for batch in waiting)
    if count:
        yield pa.Table.from_batches(waiting)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns, order, types and metadata of `schema`.

    Raises:
        pa.ArrowInvalid: if a column is missing, does not cast, or holds a null it may not.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise pa.ArrowInvalid(f"missing columns {missing}, got {table.column_names}")
    columns = []
    for field in schema:
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            raise pa.ArrowInvalid(f"column {field.name!r} holds {column.null_count} nulls")
        columns.append(column if column.type.equals(field.type) else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def read_batches(
    url: str, *, columns: list[str] | None = None, rows: int = 4096
) -> Iterator[pa.RecordBatch]:
    """Stream one Parquet file as record batches of at most `rows` rows, and of one row group."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream, pq.ParquetFile(stream) as file:
        # One by one: a batch over several groups would hold more bytes than the writer allowed.
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def read_schema(url: str) -> pa.Schema:
    """Arrow schema of one Parquet file, with its metadata."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        return pq.read_schema(stream)


def column_hash(url: str, columns: Sequence[str]) -> str:
    """SHA-256, in hex, of some columns' values in row order, however the file lays them out."""
    digest = hashlib.sha256()
    for batch in read_batches(url, columns=list(columns)):
        for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()
