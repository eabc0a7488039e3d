"""What a crawl batch is made of: named sources, kept as JSON under the data root."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines import storage
from pipelines.layout import Layout

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class SourceKind(StrEnum):
    """Where a source's candidates are found."""

    URL_LIST = "url_list"
    SITEMAP = "sitemap"
    WEB_PAGES = "web_pages"
    HTML_FILES = "html_files"


class ListFormat(StrEnum):
    """File format of a URL list; a compression is recognised by the file's further suffix."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Source:
    """One source of (url, caption) pairs.

    Attributes:
        name: written into every row.
        kind: `url_list`: files of pairs; `sitemap`: sitemap URLs; `web_pages`: page URLs;
            `html_files`: files, directories or globs of saved pages.
        paths: URLs for the two web kinds, any fsspec paths for the others.
        format: of a list; found by the file's suffix unless said.
        columns: names of a headerless list's columns, in order, e.g. ("caption", "url") for
            Conceptual Captions; the first row is the header if empty.
        url_column: column of the image URL; the usual names are tried unless said.
        caption_column: column of the caption; the usual names are tried unless said.
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

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"source name {self.name!r}: use letters, digits, '.', '_' and '-'")
        if not self.paths or not all(self.paths):
            raise ValueError(f"source {self.name!r} names no paths")
        if self.kind in (SourceKind.SITEMAP, SourceKind.WEB_PAGES):
            wrong = [p for p in self.paths if not p.startswith(("http://", "https://"))]
            if wrong:
                raise ValueError(f"source {self.name!r}: {wrong[0]!r} is not an http(s) URL")
        if self.kind == SourceKind.HTML_FILES and not self.base_url:
            raise ValueError(f"source {self.name!r}: html_files need base_url, their web address")

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
        }
        return cls(**(dict(value) | typed))


@dataclass(frozen=True)
class CrawlBatch:
    """A partition of the crawl, about 100,000 pairs.

    Attributes:
        name: the partition's key.
        sources: where its pairs come from; names are unique.
    """

    name: str
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"batch name {self.name!r}: use letters, digits, '.', '_' and '-'")
        names = [source.name for source in self.sources]
        if not names or len(names) != len(set(names)):
            raise ValueError(f"batch {self.name!r} needs sources with different names, got {names}")


def write_batch(batch: CrawlBatch, layout: Layout) -> str:
    """Write the batch's JSON file atomically and return its URL."""
    url = layout.crawl_batch(batch.name)
    storage.write_json(url, dataclasses.asdict(batch))
    return url


def read_batch(name: str, layout: Layout) -> CrawlBatch:
    """The batch of that name.

    Raises:
        FileNotFoundError: if there is none, with what to do.
        ValueError: if its file is not what `write_batch` writes, naming the file and the value.
    """
    url = layout.crawl_batch(name)
    try:
        batch = _parse(storage.read_json(url))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no crawl batch {name!r}: write its sources to {url}"
        ) from error
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{url} is not a crawl batch: {error}") from error
    if batch.name != name:
        raise ValueError(f"{url} is not a crawl batch: its name says {batch.name!r}")
    return batch


def _parse(value: Mapping[str, Any]) -> CrawlBatch:
    return CrawlBatch(value["name"], tuple(Source.from_json(source) for source in value["sources"]))
