"""URL lists: CSV, TSV, JSON lines and Parquet, plain or compressed, from any fsspec path.

A row that cannot be read is one row with a problem; the rest of its file goes on.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import IO

import fsspec

from pipelines import parquet
from pipelines.crawl.batches import ListFormat, Source
from pipelines.crawl.found import FoundRow, Problem

# As in LAION, COYO, DataComp, Conceptual Captions and WIT, compared in lower case.
_URL_COLUMNS = ("url", "image_url", "img_url", "imageurl", "image", "src")
_CAPTION_COLUMNS = ("caption", "text", "alt", "alt_text", "title", "caption_raw")
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
# The widest field that a row may have; beyond it the quotes do not match.
_FIELD_LIMIT = 1_000_000


class ListError(ValueError):
    """A list that cannot be read at all, with what to do."""


def list_format(path: str, source: Source) -> ListFormat:
    """The format of a list, by its suffix unless the source says it.

    Raises:
        ListError: if neither does.
    """
    if source.format is not None:
        return source.format
    name = path.lower()
    for suffix in _COMPRESSIONS:
        name = name.removesuffix(suffix)
    for kind in ListFormat:
        if name.endswith(f".{kind}"):
            return kind
    if name.endswith((".ndjson", ".json")):
        return ListFormat.JSONL
    raise ListError(f"{path}: the suffix tells no format; set format to one of {list(ListFormat)}")


def read_list(path: str, source: Source) -> Iterator[FoundRow]:
    """Stream the rows of one list.

    Raises:
        ListError: if the file cannot be opened or has not the columns asked for.
    """
    kind = list_format(path, source)
    try:
        if kind is ListFormat.PARQUET:
            yield from _parquet(path, source)
            return
        # Undecodable bytes become surrogates, which mark the row instead of ending the file.
        with fsspec.open(
            path, "rt", compression="infer", encoding="utf-8", errors="surrogateescape", newline=""
        ) as stream:
            yield from (
                _jsonl(stream, source, path)
                if kind is ListFormat.JSONL
                else _delimited(stream, source, path, kind)
            )
    except ListError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise ListError(f"{path} cannot be read as {kind}: {error}") from error


def _delimited(stream: IO[str], source: Source, path: str, kind: ListFormat) -> Iterator[FoundRow]:
    tabs = kind is ListFormat.TSV
    csv.field_size_limit(_FIELD_LIMIT)
    # TSV of this field is written without quoting: a quote is a character of the caption.
    rows = csv.reader(
        stream,
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    names = list(source.columns) or [name.lstrip("\ufeff") for name in next(rows, [])]
    url, caption = _columns(names, source, path)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield FoundRow(None, None, problem=Problem.BROKEN_ROW, detail=str(error))
            continue
        if len(row) != len(names):
            if row:
                detail = f"{len(row)} fields instead of {len(names)}: {'|'.join(row)[:200]}"
                yield FoundRow(None, None, problem=Problem.BROKEN_ROW, detail=detail)
            continue
        yield FoundRow(row[names.index(url)], row[names.index(caption)])


def _jsonl(stream: IO[str], source: Source, path: str) -> Iterator[FoundRow]:
    columns: tuple[str, str] | None = None
    for line in stream:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            columns = columns or _columns(list(row), source, path)
            url, caption = row[columns[0]], row[columns[1]]
            if not isinstance(url, str | None) or not isinstance(caption, str | None):
                raise TypeError(f"{columns} hold {type(url).__name__}, {type(caption).__name__}")
        except ListError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            detail = f"{type(error).__name__} {error}: {line[:200].strip()}"
            yield FoundRow(None, None, problem=Problem.BROKEN_ROW, detail=detail)
        else:
            yield FoundRow(url, caption)


def _parquet(path: str, source: Source) -> Iterator[FoundRow]:
    names = parquet.read_schema(path).names
    columns = _columns(names, source, path)
    for batch in parquet.read_batches(path, columns=list(columns), rows=16_000):
        texts = (batch.column(name).cast("string").to_pylist() for name in columns)
        for url, caption in zip(*texts, strict=True):
            yield FoundRow(url, caption)


def _columns(names: Sequence[str], source: Source, path: str) -> tuple[str, str]:
    """The columns of URL and caption."""
    url = _column(names, source.url_column, _URL_COLUMNS, path, "url_column")
    caption = _column(names, source.caption_column, _CAPTION_COLUMNS, path, "caption_column")
    return url, caption


def _column(
    names: Sequence[str], wanted: str | None, usual: Sequence[str], path: str, option: str
) -> str:
    if wanted in names:
        return str(wanted)
    lowered = {name.lower(): name for name in names}
    found = next((lowered[name] for name in usual if name in lowered), None)
    if wanted is not None or found is None:
        said = ", ".join(names)[:300]
        raise ListError(f"{path} has the columns {said}: set {option} of its source to one of them")
    return found
