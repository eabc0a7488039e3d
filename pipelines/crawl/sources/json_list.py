"""URL lists in JSON lines: an object a line."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from pipelines.crawl.batches import Source
from pipelines.crawl.found import FoundRow
from pipelines.crawl.sources.list_columns import Columns, find_columns
from pipelines.crawl.sources.text_lines import Damage, ListError, broken, filled_lines, sliced

# A line leaves out what is missing: the names are those of the first objects together.
_NAMED_BY_ROWS = 100


def column_names(path: str) -> list[str]:
    """Names that the first objects of the file have; none if it has no rows.

    Raises:
        ListError: if it cannot be read, or none of its first lines is an object.
    """
    return _names(next((block for block in filled_lines(path) if block), []), path)


def read_rows(path: str, source: Source) -> Iterator[FoundRow]:
    """Stream the rows, or those that `source.rows` names.

    A row with a list of captions gives a pair for each.

    Raises:
        ListError: as `column_names`, and if it has not the columns asked for.
    """
    blocks = (block for block in filled_lines(path) if block)
    first = next(blocks, None)
    if first is None:
        return
    columns = find_columns(_names(first, path), source, path)
    for block in sliced(itertools.chain([first], blocks), source.rows):
        for line in block:
            if isinstance(line, Damage):
                yield broken(line.detail)
            else:
                yield from _rows(line, columns)


def _names(lines: Sequence[str | Damage], path: str) -> list[str]:
    """Names that the first objects have.

    Raises:
        ListError: if there is none among the lines.
    """
    names: dict[str, None] = {}
    for number, line in enumerate(lines):
        if names and number >= _NAMED_BY_ROWS:
            break
        row = None if isinstance(line, Damage) else _parsed(line)
        if isinstance(row, dict):
            names |= dict.fromkeys(row)
    if not names and lines:
        raise ListError(
            f"{path} cannot be read as jsonl: there is no object in its first lines; write one "
            "object a line (of a JSON array: jq -c '.[]'), or set another format"
        )
    return list(names)


def _rows(line: str, columns: Columns) -> Iterator[FoundRow]:
    row = _parsed(line)
    if not isinstance(row, dict):
        yield broken(f"no JSON object: {line[:200]}")
        return
    url, caption = row.get(columns.url), row.get(columns.caption)
    captions = caption if isinstance(caption, list) else [caption]
    if not isinstance(url, str | None) or not all(isinstance(c, str | None) for c in captions):
        yield broken(f"url or caption is no text: {line[:200]}")
        return
    for each in captions or [None]:
        yield FoundRow(url, each)


def _parsed(line: str) -> Any:
    """The value of a line; None if it is not JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # What other writers make of missing numbers (NaN), cut emoji and bytes that are not UTF-8
        # is refused by orjson; the row may be good, or is to be named by what is wrong with it.
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None
