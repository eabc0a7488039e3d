"""URL lists: CSV, TSV, JSON lines, Parquet and YFCC100M metadata, from any fsspec path.

A row that cannot be read is one row with a problem; the rest of its file goes on. Where a
compressed file or a Parquet row group is damaged, one row with a problem says so after the rows
before it. Memory holds a block of lines, or what two columns of one Parquet row group take.
"""

import itertools
from collections.abc import Iterator

from pipelines.crawl.batches import ListFormat, Source
from pipelines.crawl.found import FoundRow, without_surrogates
from pipelines.crawl.sources import json_list, parquet_list
from pipelines.crawl.sources.delimited import Record, csv_records, tsv_records
from pipelines.crawl.sources.list_columns import find_columns
from pipelines.crawl.sources.text_lines import (
    Damage,
    ListError,
    broken,
    filled_lines,
    read_lines,
    sliced,
)
from pipelines.crawl.sources.yfcc import rows_of_line

COMPRESSIONS = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")
_FORMAT_SUFFIXES = {
    ".csv": ListFormat.CSV,
    ".tsv": ListFormat.TSV,
    ".tab": ListFormat.TSV,
    ".jsonl": ListFormat.JSONL,
    ".ndjson": ListFormat.JSONL,
    ".json": ListFormat.JSONL,
    ".parquet": ListFormat.PARQUET,
}

__all__ = [
    "COMPRESSIONS",
    "ListError",
    "count_rows",
    "ignored_columns",
    "list_format",
    "read_list",
    "suffix_format",
]


def suffix_format(path: str) -> ListFormat | None:
    """The format that a path's suffix tells, before the suffix of a compression."""
    name = path.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return next((kind for end, kind in _FORMAT_SUFFIXES.items() if name.endswith(end)), None)


def list_format(path: str, source: Source) -> ListFormat:
    """The format of a list, by its suffix unless the source says it.

    Raises:
        ListError: if neither does.
    """
    kind = source.format or suffix_format(path)
    if kind is None:
        known = ", ".join(ListFormat)
        raise ListError(f"{path}: the suffix tells no format; set format to one of {known}")
    return kind


def read_list(path: str, source: Source) -> Iterator[FoundRow]:
    """Stream the rows of one list, or those that `source.rows` names.

    Raises:
        ListError: if the file cannot be opened, is not of the format or has not the columns asked
            for.
    """
    kind = list_format(path, source)
    if kind is ListFormat.PARQUET:
        yield from parquet_list.read_rows(path, source)
    elif kind is ListFormat.YFCC100M:
        yield from _yfcc(path, source)
    elif kind is ListFormat.JSONL:
        yield from json_list.read_rows(path, source)
    else:
        yield from _delimited(path, source, kind)


def count_rows(path: str, source: Source) -> int:
    """Data rows of one list, as `source.rows` counts them; broken ones count.

    Parquet says the number in its footer; any other format is read through once.

    Raises:
        ListError: if the file cannot be opened or is not of the format.
    """
    kind = list_format(path, source)
    if kind is ListFormat.PARQUET:
        return parquet_list.count_rows(path)
    if kind in (ListFormat.YFCC100M, ListFormat.JSONL):
        return sum(map(len, filled_lines(path)))
    _, records = _headed(path, source, kind)
    return sum(map(len, records))


def ignored_columns(path: str, source: Source) -> tuple[str, ...]:
    """Columns of one list that nothing is taken from, in their order; reads only its start.

    Raises:
        ListError: as `read_list`.
    """
    kind = list_format(path, source)
    if kind is ListFormat.YFCC100M:
        return ()
    if kind is ListFormat.PARQUET:
        names = parquet_list.column_names(path)
    elif kind is ListFormat.JSONL:
        names = json_list.column_names(path)
        if not names:
            return ()
    else:
        names, _ = _headed(path, source, kind)
    ignored = find_columns(names, source, path).ignored
    return tuple(map(without_surrogates, ignored))


def _delimited(path: str, source: Source, kind: ListFormat) -> Iterator[FoundRow]:
    names, records = _headed(path, source, kind)
    columns = find_columns(names, source, path)
    url, caption = names.index(columns.url), names.index(columns.caption)
    for block in sliced(records, source.rows):
        for record in block:
            yield (
                broken(record.detail)
                if isinstance(record, Damage)
                else FoundRow(record[url], record[caption])
            )


def _headed(
    path: str, source: Source, kind: ListFormat
) -> tuple[list[str], Iterator[list[Record | Damage]]]:
    """The columns' names, and the records below the header."""
    width = len(source.columns) or None
    records = (
        tsv_records(read_lines(path), width)
        if kind is ListFormat.TSV
        else csv_records(read_lines(path), source.delimiter or ",", width)
    )
    if source.columns:
        return list(source.columns), records
    first = next((block for block in records if block), [])
    if not first:
        raise ListError(f"{path} is empty: it has no header; take it out of its source")
    header, rest = first[0], first[1:]
    if isinstance(header, Damage):
        raise ListError(
            f"{path} cannot be read as {kind}: its first row is broken: {header.detail}"
        )
    if any(name.strip().startswith(("http://", "https://")) for name in header):
        raise ListError(
            f"{path} has no header, its first row is data: set columns of its source to the names "
            f"of its {len(header)} columns, e.g. caption,url"
        )
    return [name.strip() for name in header], itertools.chain([rest], records)


def _yfcc(path: str, source: Source) -> Iterator[FoundRow]:
    for block in sliced(filled_lines(path), source.rows):
        for line in block:
            if isinstance(line, Damage):
                yield broken(line.detail)
            else:
                yield from rows_of_line(line)
