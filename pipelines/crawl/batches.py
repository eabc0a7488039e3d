"""What a crawl batch is made of: named sources, kept as JSON under the data root."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pipelines import storage
from pipelines.layout import Layout

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class SourceKind(StrEnum):
    """Where a source's candidates are found."""

    URL_LIST = "url_list"
    SITEMAP = "sitemap"
    WEB_PAGES = "web_pages"
    HTML_FILES = "html_files"
    WEB_ARCHIVE = "web_archive"


class ListFormat(StrEnum):
    """File format of a URL list; a compression is recognised by the file's first bytes."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    YFCC100M = "yfcc100m"


@dataclass(frozen=True)
class Source:
    """One source of (url, caption) pairs.

    Attributes:
        name: written into every row.
        kind: `url_list`: files of pairs; `sitemap`: sitemap URLs; `web_pages`: page URLs;
            `html_files`: files, directories or globs of saved pages; `web_archive`: files or globs
            of WARC or WAT.
        paths: URLs for the two web kinds, any fsspec paths for the others.
        format: of a list; found by the file's suffix unless said.
        columns: names of a headerless list's columns, in order, e.g. ("caption", "url") for
            Conceptual Captions; the first row is the header if empty.
        delimiter: one character between the fields of `csv` where it is no comma. Quotes enclose
            fields in `csv`, with a tab too; in `tsv` they are characters like others.
        url_column: column of the image URL; the usual names are tried unless said. In Parquet a
            field of a struct is `outer.inner`.
        caption_column: column of the caption; the usual names are tried unless said.
        rows: data rows of the one list to read, from the first up to, not including, the second,
            counted from 0; all unless said. So a long list is several batches.
        base_url: web address of the directory that `html_files` were saved from.
        snapshot: version of the list or crawl, written into every row.

    Raises:
        ValueError: if the source makes no sense, naming the value.
    """

    name: str
    kind: SourceKind
    paths: tuple[str, ...]
    format: ListFormat | None = None
    columns: tuple[str, ...] = ()
    url_column: str | None = None
    caption_column: str | None = None
    base_url: str | None = None
    snapshot: str | None = None
    delimiter: str | None = None
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"source name {self.name!r}: name it (--source of the command) with letters, "
                "digits, '.', '_' and '-' only"
            )
        if not self.paths or not all(self.paths):
            raise ValueError(f"source {self.name!r} names no paths")
        if self.kind in (SourceKind.SITEMAP, SourceKind.WEB_PAGES):
            wrong = [p for p in self.paths if not p.startswith(("http://", "https://"))]
            if wrong:
                raise ValueError(f"source {self.name!r}: {wrong[0]!r} is not an http(s) URL")
        if self.kind == SourceKind.HTML_FILES and not self.base_url:
            raise ValueError(f"source {self.name!r}: html_files need base_url, their web address")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f"source {self.name!r}: delimiter {self.delimiter!r} must be one char")
        if self.rows is not None:
            if self.kind != SourceKind.URL_LIST or len(self.paths) != 1:
                raise ValueError(f"source {self.name!r}: rows are of a url_list with one path")
            if len(self.rows) != 2 or not 0 <= self.rows[0] <= self.rows[1]:
                raise ValueError(f"source {self.name!r}: rows {self.rows} must be [start, end]")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Source":
        """The source that `dataclasses.asdict` made `value` of."""
        if isinstance(value["paths"], str):
            raise ValueError(f"paths of source {value['name']!r} must be a list")
        typed = {
            "kind": SourceKind(value["kind"]),
            "paths": tuple(value["paths"]),
            "columns": tuple(value.get("columns") or ()),
            "format": ListFormat(value["format"]) if value.get("format") else None,
            "rows": tuple(value["rows"]) if value.get("rows") is not None else None,
        }
        return cls(**(dict(value) | typed))


@dataclass(frozen=True)
class CrawlBatch:
    """A partition of the crawl, about 100,000 pairs.

    Attributes:
        name: the partition's key.
        sources: where its pairs come from; names are unique.
        registered_at: when it was first written, as ISO 8601 in UTC with microseconds; it orders
            the batches, so that a repeat is dropped from the later one.
    """

    name: str
    sources: tuple[Source, ...]
    registered_at: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"batch name {self.name!r}: use letters, digits, '.', '_' and '-'")
        names = [source.name for source in self.sources]
        if not names or len(names) != len(set(names)):
            raise ValueError(f"batch {self.name!r} needs sources with different names, got {names}")
        if self.registered_at:
            try:
                datetime.strptime(self.registered_at, _TIME)
            except ValueError as error:
                raise ValueError(
                    f"batch {self.name!r}: registered_at {self.registered_at!r} must look like "
                    f"2024-07-01T12:00:00.000000Z"
                ) from error

    @property
    def order(self) -> tuple[str, str]:
        """Key of the order of registration; a batch whose file names no time comes first."""
        return self.registered_at, self.name


def merged(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Sources that differ in nothing but their paths as one; further ones of a name numbered."""
    alike: dict[tuple[Any, ...], list[Source]] = {}
    for source in sources:
        key = tuple(getattr(source, f.name) for f in fields(source) if f.name != "paths")
        alike.setdefault(key, []).append(source)
    names: Counter[str] = Counter()
    different = []
    for same in alike.values():
        name = same[0].name
        names[name] += 1
        number = f".{names[name]}" if names[name] > 1 else ""
        paths = tuple(path for source in same for path in source.paths)
        different.append(replace(same[0], name=f"{name}{number}", paths=paths))
    return tuple(different)


def write_batch(batch: CrawlBatch, layout: Layout) -> str:
    """Write the batch's JSON file atomically and return its URL.

    A batch of that name is replaced, but keeps its place among the batches: `registered_at` is
    that of the file that was there, else the batch's own, else now.
    """
    url = layout.crawl_batch(batch.name)
    try:
        registered_at = _read(batch.name, url).registered_at
    except (FileNotFoundError, ValueError):  # a broken file has no place to keep
        registered_at = batch.registered_at or datetime.now(UTC).strftime(_TIME)
    written = dataclasses.replace(batch, registered_at=registered_at)
    storage.write_json(url, dataclasses.asdict(written))
    return url


def read_batch(name: str, layout: Layout) -> CrawlBatch:
    """The batch of that name.

    Raises:
        FileNotFoundError: if there is none, with what to do.
        ValueError: if its file is not what `write_batch` writes, naming the file and the value.
    """
    url = layout.crawl_batch(name)
    try:
        return _read(name, url)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no crawl batch {name!r}: write its sources to {url}"
        ) from error


def batches_before(batch: CrawlBatch, layout: Layout) -> list[CrawlBatch]:
    """The batches registered before `batch`, in that order.

    Raises:
        ValueError: as for `batches_in_order`.
    """
    return [known for known in batches_in_order(layout) if known.order < batch.order]


def batches_in_order(layout: Layout) -> list[CrawlBatch]:
    """All batches, in the order in which they were registered.

    Raises:
        ValueError: if a batch's file is broken, naming it: what it holds cannot be left out of a
            search for repeats without a word.
    """
    directory = layout.crawl_batch("").rsplit("/", 1)[0]
    urls = storage.list_files(directory, ".json")
    known = (_read(url.rsplit("/", 1)[1].removesuffix(".json"), url) for url in urls)
    return sorted(known, key=lambda b: b.order)


def _read(name: str, url: str) -> CrawlBatch:
    try:
        batch = _parse(storage.read_json(url))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{url} is not a crawl batch: {error}") from error
    if batch.name != name:
        raise ValueError(f"{url} is not a crawl batch: its name says {batch.name!r}")
    return batch


def _parse(value: Mapping[str, Any]) -> CrawlBatch:
    sources = tuple(Source.from_json(source) for source in value["sources"])
    return CrawlBatch(value["name"], sources, value.get("registered_at") or "")
