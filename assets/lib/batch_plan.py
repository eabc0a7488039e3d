"""From words of a command line to crawl batches: what each is, and how a long list is cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from assets.lib.home import UserError, is_url
from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, ListFormat, Source, SourceKind, merged

_WEB = ("http://", "https://")
# A list up to this many times the aim is one batch.
_SLACK = 1.5
_FORMATS = {
    ListFormat.CSV: "comma-separated",
    ListFormat.TSV: "tab-separated",
    ListFormat.JSONL: "JSON lines",
    ListFormat.PARQUET: "Parquet",
    ListFormat.YFCC100M: "YFCC100M metadata",
}
_KINDS = {
    SourceKind.SITEMAP: "a sitemap",
    SourceKind.WEB_PAGES: "a web page",
    SourceKind.HTML_FILES: "saved pages",
    SourceKind.WEB_ARCHIVE: "WARC or WAT",
}


@dataclass(frozen=True)
class Recognised:
    """One word of the command line.

    Attributes:
        word: as it was typed.
        source: what it is, uncut.
        parts: the same in pieces of about one batch.
        rows: data rows of a list; None for everything else, and for lists on the web.
    """

    word: str
    source: Source
    parts: tuple[Source, ...]
    rows: int | None

    def text(self) -> str:
        """One line that says what was recognised."""
        words = [_described(self.source)]
        if self.rows is not None:
            words.append(f"{self.rows:,} row{'' if self.rows == 1 else 's'}")
        elif len(self.parts) > 1:
            words.append(f"{len(self.parts)} files")
        ignored = _ignored(self.source) if self.rows is not None else ()
        if ignored:
            words.append(f"nothing is taken from the columns {', '.join(ignored)}")
        return f"{PurePath(self.word).name}: {', '.join(words)}"


def recognise(
    words: Sequence[str], pairs_per_batch: int, name: str | None, options: Mapping[str, Any]
) -> list[Recognised]:
    """What each word is.

    Args:
        words: paths, globs, http(s) URLs, or BASE_URL=PATH for saved pages.
        pairs_per_batch: aimed at where lists are cut.
        name: of every source; else each word's own.
        options: of `pipelines.crawl.sources.recognise.source_of`, said by the user.

    Raises:
        UserError: if one cannot be read.
        ValueError: if one cannot be recognised, with the options to set.
    """
    return [_recognised(word, pairs_per_batch, name, dict(options)) for word in words]


def batches_of(name: str, found: Sequence[Recognised], pairs_per_batch: int) -> list[CrawlBatch]:
    """One batch `name` if it has about the size aimed at, else `name-0000`, `name-0001` ..."""
    rows = sum(item.rows or 0 for item in found)
    files = [item for item in found if item.source.kind is SourceKind.WEB_ARCHIVE]
    if rows <= _SLACK * pairs_per_batch and sum(len(item.parts) for item in files) <= 1:
        return [CrawlBatch(name, merged([item.source for item in found]))]
    parts = [part for item in found for part in item.parts]
    return [CrawlBatch(f"{name}-{number:04}", (part,)) for number, part in enumerate(parts)]


def _recognised(
    word: str, pairs_per_batch: int, name: str | None, options: dict[str, Any]
) -> Recognised:
    from pipelines.crawl.planning import plan_batches, source_name
    from pipelines.crawl.sources.recognise import source_of

    path = word
    base, equals, directory = word.partition("=")
    if word.startswith(_WEB) and equals and storage.exists(directory):
        path, options = directory, options | {"base_url": base}
    if path.startswith(_WEB):
        source = source_of(path, name or urlsplit(path).hostname or "web", **options)
        return Recognised(word, source, (source,), None)
    if not storage.exists(path) and not storage.matching(path):
        raise UserError(f"cannot read {path!r}: nothing is there; check the path")
    # The runs, which read the batch's file, have another working directory.
    path = path if is_url(path) else str(Path(path).absolute())
    name = name or source_name(path)
    source = source_of(path, name, **options)
    planned = plan_batches(path, name, pairs_per_batch, **options)
    parts = tuple(part for batch in planned for part in batch.sources)
    rows = sum(map(_rows, parts)) if source.kind is SourceKind.URL_LIST else None
    return Recognised(word, source, parts, rows)


def _rows(part: Source) -> int:
    from pipelines.crawl.sources.url_lists import count_rows

    if part.rows is not None:
        return part.rows[1] - part.rows[0]
    return count_rows(part.paths[0], part)


def _ignored(source: Source) -> tuple[str, ...]:
    from pipelines.crawl.sources.url_lists import ignored_columns

    return tuple(ignored_columns(source.paths[0], source))


def _described(source: Source) -> str:
    if source.kind is not SourceKind.URL_LIST:
        return _KINDS[source.kind]
    words = [_FORMATS[source.format] if source.format else "a list"]
    if source.delimiter is not None:
        words = [f"separated by {source.delimiter!r}"]
    if source.columns:
        words += ["no header", " then ".join(source.columns)]
    return ", ".join(words)
