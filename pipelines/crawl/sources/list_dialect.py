"""How a delimited list is written: its separator, its quotes, and whether it has a header."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.crawl.batches import ListFormat, Source
from pipelines.crawl.sources.delimited import Record, csv_records, tsv_records
from pipelines.crawl.sources.list_columns import find_columns
from pipelines.crawl.sources.text_lines import Damage, ListError

# Most frequent first: it decides between separators that fit equally well.
_SEPARATORS = ("\t", ",", ";", "|")
_WEB = re.compile(r"https?://[^\s|<>\"]+", re.IGNORECASE)
# A tab-separated field with quotes around it and doubled inside was written as CSV.
_QUOTED_FIELD = re.compile(r'(?:^|\t)"[^\t"]*(?:""[^\t"]*)+"(?:\t|$)')


@dataclass(frozen=True)
class _Table:
    """The records of the list's start, cut in one way.

    Attributes:
        format, delimiter: the way.
        records: those that are not broken.
        fits: share of all records that are not broken.
    """

    format: ListFormat
    delimiter: str | None
    records: list[Record]
    fits: float

    @property
    def url_shares(self) -> list[float]:
        """Share of the records below the first that hold a URL, for each column."""
        data = self.records[1:] or self.records
        columns = zip(*data, strict=True)
        return [sum(bool(_WEB.fullmatch(f.strip())) for f in c) / len(data) for c in columns]

    @property
    def urls(self) -> list[int]:
        """Positions of the columns that hold URLs in at least half of the records."""
        return [at for at, share in enumerate(self.url_shares) if share >= 0.5]

    @property
    def headed(self) -> bool:
        """Whether the first record can name the columns: it holds no URL."""
        return not any(_WEB.match(field.strip()) for field in self.records[0])


def recognise_delimited(said: Source, lines: Sequence[str]) -> Source | None:
    """`said` with format, separator and columns as the list's first lines show them.

    Args:
        said: the list; what it says already stays.
        lines: complete lines from the start of the file.

    Returns:
        None if the lines are no table that holds URLs.

    Raises:
        ListError: if they are one, but which columns to take cannot be told.
    """
    tables = [_cut(said, lines, separator) for separator in _separators(said)]
    usable = [t for t in tables if t is not None and (t.urls or _names_columns(said, t))]
    if not usable:
        if any(_WEB.fullmatch(line.strip()) for line in lines[:20]):
            raise ListError(
                f"{said.paths[0]} holds URLs without captions: add a column of captions, or give "
                "the pages themselves as http(s) URLs"
            )
        return None
    best = max(usable, key=lambda table: (max(table.url_shares), table.fits))
    cut = replace(said, format=best.format, delimiter=best.delimiter)
    return _with_header(cut, best) if best.headed else _without_header(cut, best)


def _separators(said: Source) -> tuple[str, ...]:
    if said.delimiter is not None:
        return (said.delimiter,)
    return ("\t",) if said.format is ListFormat.TSV else _SEPARATORS


def _cut(said: Source, lines: Sequence[str], separator: str) -> _Table | None:
    """The lines cut at a separator; None if that gives no columns."""
    quoted = any(map(_QUOTED_FIELD.search, lines))
    kind = said.format or (ListFormat.TSV if separator == "\t" and not quoted else ListFormat.CSV)
    width = len(said.columns) or None
    if kind is ListFormat.TSV:
        blocks, delimiter = tsv_records([list(lines)], width), None
    else:
        blocks = csv_records([list(lines)], separator, width)
        delimiter = None if separator == "," else separator
    records = [record for block in blocks for record in block]
    good = [record for record in records if not isinstance(record, Damage)]
    if not good or len(good[0]) < 2 or 2 * len(good) < len(records):
        return None
    return _Table(kind, delimiter, good, len(good) / len(records))


def _names_columns(said: Source, table: _Table) -> bool:
    try:
        find_columns([name.strip() for name in table.records[0]], said, "")
    except ListError:
        return False
    return True


def _with_header(said: Source, table: _Table) -> Source:
    names = [name.strip() for name in table.records[0]]
    if said.columns or _names_columns(said, table):
        return said
    # Names that are not the usual ones: the URLs show themselves, the caption only beside one.
    if said.url_column is None and len(table.urls) == 1:
        url = table.urls[0]
        said = replace(said, url_column=names[url])
        if said.caption_column is None and len(names) == 2:
            said = replace(said, caption_column=names[1 - url])
    find_columns(names, said, said.paths[0])
    return said


def _without_header(said: Source, table: _Table) -> Source:
    if said.columns:
        return said
    width = len(table.records[0])
    if width == 2 and len(table.urls) == 1:
        return replace(
            said, columns=("url", "caption") if table.urls == [0] else ("caption", "url")
        )
    raise ListError(
        f"{said.paths[0]} has {width} columns and no header: set columns to their names, with url "
        "and caption among them"
    )
