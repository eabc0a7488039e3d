"""URL lists in Parquet: text columns of any spelling, row group by row group."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.crawl.batches import Source
from pipelines.crawl.found import FoundRow
from pipelines.crawl.sources.list_columns import find_columns
from pipelines.crawl.sources.text_lines import ListError, broken, open_stored

# Rows decoded at once, for which a value that is written once may be repeated.
_READ_ROWS = 128
_READ_BYTES = 16_000_000
# A column that unpacks to more than this many times its bytes may be one long text for every row.
_USUAL_RATIO = 50
_UNPACKED_BYTES = 128_000_000


def count_rows(path: str) -> int:
    """Rows that the file's footer says.

    Raises:
        ListError: if it cannot be read as Parquet.
    """
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def column_names(path: str) -> list[str]:
    """Columns that can hold a text; a field of a struct is `outer.inner`, a list is its own name.

    Raises:
        ListError: if it cannot be read as Parquet.
    """
    with _opened(path) as file:
        return [name for field in file.schema_arrow for name in _leaves(field)]


def read_rows(path: str, source: Source) -> Iterator[FoundRow]:
    """Stream the rows, or those that `source.rows` names; a row group before them is not read.

    A row with a list of captions gives a pair for each. A row group that cannot be decoded gives
    the rows before the damage and one row with a problem, and reading goes on with the next.

    Raises:
        ListError: if the file cannot be read as Parquet, or has not the columns asked for.
    """
    with _opened(path) as file:
        names = [name for field in file.schema_arrow for name in _leaves(field)]
        columns = find_columns(names, source, path)
        for name in (columns.url, columns.caption):
            _check_type(file.schema_arrow, name, path, lists=name == columns.caption)
        first, end = source.rows or (0, file.metadata.num_rows)
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < end and start + rows > first:
                wanted = max(first - start, 0), min(end - start, rows)
                yield from _group_rows(file, group, (columns.url, columns.caption), wanted, start)
            start += rows


def _group_rows(
    file: pq.ParquetFile, group: int, columns: tuple[str, str], wanted: tuple[int, int], start: int
) -> Iterator[FoundRow]:
    """Rows `wanted` of one row group, whose first is row `start` of the file."""
    at, (first, end) = 0, wanted
    try:
        rows = min(_rows_at_once(file.metadata.row_group(group), name) for name in columns)
        for batch in file.iter_batches(rows, row_groups=[group], columns=list(columns)):
            inside = batch.slice(max(first - at, 0), max(end - max(first, at), 0))
            at += batch.num_rows
            for part in _parts(inside):
                urls, captions = (_texts(_leaf(part, name)) for name in columns)
                for url, caption in zip(urls, captions, strict=True):
                    for each in caption or [None] if isinstance(caption, list) else [caption]:
                        yield FoundRow(url, each)
            if at >= end:
                return
    except (pa.ArrowException, OSError) as error:
        # Of several batches that want rows of this group, each says what it misses itself.
        lost = f"rows {start + max(at, first)} to {start + end - 1} cannot be decoded: {error}"
        yield broken(lost)


def _rows_at_once(group: pq.RowGroupMetaData, name: str) -> int:
    """Rows of a column that can be decoded at once without filling the memory.

    Raises:
        OSError: if the column is packed like nothing but a bomb.
    """
    rows = _READ_ROWS
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema != name and not column.path_in_schema.startswith(f"{name}."):
            continue
        packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
        largest = 1
        if unpacked > _USUAL_RATIO * max(packed, 1):
            if unpacked > _UNPACKED_BYTES:
                raise OSError(f"the column {name} unpacks from {packed} bytes to {unpacked}")
            largest = unpacked
        elif column.has_dictionary_page and column.dictionary_page_offset:
            largest = max(1, column.data_page_offset - column.dictionary_page_offset)
        rows = min(rows, max(1, _READ_BYTES // largest))
    return rows


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts that may become Python objects at once."""
    step = max(1, batch.num_rows * _READ_BYTES // max(batch.nbytes, _READ_BYTES))
    for at in range(0, batch.num_rows, step):
        yield batch.slice(at, step)


def _leaf(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    outer, *inner = name.split(".")
    return pc.struct_field(batch.column(outer), inner)


def _texts(column: pa.Array) -> list[Any]:
    """Values as text; bytes that are not UTF-8 become surrogates, as in other lists."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return [None] * len(column)
    with contextlib.suppress(UnicodeDecodeError):
        values = column.to_pylist()
        return [_text(value) for value in values] if _is_binary(column.type) else values
    # Parquet does not check what it calls a string.
    return [_text(value) for value in column.cast(_as_binary(column.type)).to_pylist()]


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(each) for each in value]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if _is_list(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _as_binary(kind: pa.DataType) -> pa.DataType:
    return pa.large_list(pa.large_binary()) if _is_list(kind) else pa.large_binary()


def _leaves(field: pa.Field) -> list[str]:
    if not pa.types.is_struct(field.type):
        return [field.name]
    inside = (field.type.field(at) for at in range(field.type.num_fields))
    return [f"{field.name}.{name}" for inner in inside for name in _leaves(inner)]


def _check_type(schema: pa.Schema, name: str, path: str, *, lists: bool) -> None:
    """Raise a ListError unless the column holds text (or, with `lists`, lists of it)."""
    outer, *inner = [name] if name in schema.names else name.split(".")
    kind = schema.field(outer).type
    for part in inner:
        kind = kind.field(part).type
    plain = kind.value_type if (lists and _is_list(kind)) or pa.types.is_dictionary(kind) else kind
    text = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null,
    )  # fmt: skip
    if not any(check(plain) for check in text):
        raise ListError(
            f"{path}: the column {name} holds {kind}, not text; set url_column or caption_column "
            "of its source to another"
        )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    with open_stored(path) as stream:
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise ListError(f"{path} cannot be read as parquet: {error}") from error
        with file:
            yield file
