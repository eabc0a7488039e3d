"""What a path or URL is as a source: recognised by its first kilobytes, not by its name.

Only http(s) URLs are judged by their suffix: asking a server is left to the crawl, which follows
the server's rules.
"""

import re
from dataclasses import replace
from typing import TypedDict, Unpack
from urllib.parse import urlsplit

from fsspec.implementations.local import LocalFileSystem

from pipelines import storage
from pipelines.crawl.batches import ListFormat, Source, SourceKind
from pipelines.crawl.sources import url_lists
from pipelines.crawl.sources.list_dialect import recognise_delimited
from pipelines.crawl.sources.text_lines import ListError, read_head, text_decoder
from pipelines.crawl.sources.yfcc import looks_like_yfcc

_WEB = ("http://", "https://")
_HEAD = 1 << 16
_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")
_ARCHIVE_SUFFIXES = (".warc", ".warc.gz", ".wat", ".wat.gz")
_SITEMAP_SUFFIXES = (".xml", ".xml.gz")
_OBJECT = re.compile(r'\{\s*"')
_UNKNOWN = (
    "its content tells no format; set format to csv, tsv, jsonl, parquet or yfcc100m, and columns "
    "if it has no header"
)


class Options(TypedDict, total=False):
    """What somebody says about a source; it goes before what is recognised. See `Source`."""

    format: ListFormat | None
    columns: tuple[str, ...]
    delimiter: str | None
    url_column: str | None
    caption_column: str | None
    base_url: str | None
    snapshot: str | None


def source_of(path: str, name: str, **options: Unpack[Options]) -> Source:
    """The source that `path` is.

    Args:
        path: a file, a directory, a glob, or an http(s) URL of a page, sitemap, list or archive.
        name: of the source.
        options: said rather than recognised.

    Raises:
        ListError: if it cannot be recognised or lacks something, with the options to set.
        ValueError: if an option makes no sense.
    """
    said = Source(name, SourceKind.URL_LIST, (path,), **options)
    if path.startswith(_WEB):
        return _of_suffix(said)
    fs, inside = storage.filesystem(path)
    # Names on a disk may hold a star.
    if "*" in path and not fs.isfile(inside):
        return _of_files(said, storage.matching(path))
    if not fs.isdir(inside):
        return _of_file(said)
    local = isinstance(fs, LocalFileSystem)
    found = sorted(f if local else fs.unstrip_protocol(f) for f in fs.find(inside))
    root = inside if local else fs.unstrip_protocol(inside)
    shown = [f for f in found if not any(_hidden(p) for p in f.removeprefix(root).split("/"))]
    if any(file.lower().endswith(_PAGE_SUFFIXES) for file in shown):
        return _saved_pages(said)
    return _of_files(said, shown)


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _of_suffix(said: Source) -> Source:
    address = urlsplit(said.paths[0]).path.lower()
    if address.endswith(_ARCHIVE_SUFFIXES):
        return _plain(said, SourceKind.WEB_ARCHIVE)
    if said.format is None and address.endswith(_SITEMAP_SUFFIXES):
        return _plain(said, SourceKind.SITEMAP)
    kind = said.format or url_lists.suffix_format(address)
    if kind is None:
        return _plain(said, SourceKind.WEB_PAGES)
    return replace(said, format=kind, base_url=None)


def _of_files(said: Source, files: list[str]) -> Source:
    """One source of files that are all alike."""
    if not files:
        raise ListError(f"{said.paths[0]} holds no files; check the path")
    alike: Source | None = None
    failed: ListError | None = None
    for file in files:
        try:
            source = replace(_of_file(replace(said, paths=(file,))), paths=tuple(files))
        except ListError as error:
            # One broken file among many is a row in the reject table.
            if isinstance(error.__cause__, OSError):
                raise
            failed = error
            continue
        if alike is not None and source != alike:
            raise ListError(
                f"{said.paths[0]} holds files of different kinds ({files[0]} and {file}, say): "
                "name those of one kind, with * for instance"
            )
        alike = source
    if alike is None:
        assert failed is not None
        raise failed
    return alike


def _of_file(said: Source) -> Source:
    path = said.paths[0]
    if said.format in (ListFormat.PARQUET, ListFormat.JSONL, ListFormat.YFCC100M):
        return _checked(said)
    head = read_head(path, _HEAD)
    if not head:
        raise ListError(f"{path} is empty")
    if said.format is None:
        if head.startswith(b"PAR1"):
            return _checked(replace(said, format=ListFormat.PARQUET))
        if head.startswith(b"WARC/"):
            return _plain(said, SourceKind.WEB_ARCHIVE)
    text = text_decoder(head).decode(head)
    if "\0" in text:
        raise ListError(f"{path} is a binary file of no known format: give another")
    return _of_text(said, text, whole=len(head) < _HEAD)


def _of_text(said: Source, text: str, *, whole: bool) -> Source:
    path = said.paths[0]
    start = text.lstrip().lower()
    if said.format is None:
        if start.startswith("<") and (pages := _of_markup(said, start)) is not None:
            return pages
        if _OBJECT.match(start):
            return _checked(replace(said, format=ListFormat.JSONL))
        if start.startswith("["):
            raise ListError(f"{path} is a JSON array: write one object a line (jq -c '.[]')")
    # The last line may be cut.
    lines = text.replace("\r\n", "\n").split("\n")
    lines = [line for line in (lines if whole else lines[:-1]) if line.strip()]
    if said.format is None and any(looks_like_yfcc(line.split("\t")) for line in lines[:20]):
        return _checked(replace(said, format=ListFormat.YFCC100M))
    found = recognise_delimited(said, lines)
    if found is None:
        raise ListError(f"{path}: {_UNKNOWN}")
    return _checked(found)


def _of_markup(said: Source, start: str) -> Source | None:
    """The source that an HTML or XML file is; None if it is neither page nor sitemap."""
    if "<urlset" in start or "<sitemapindex" in start:
        raise ListError(f"{said.paths[0]} is a saved sitemap: give its http(s) address instead")
    pages = any(tag in start for tag in ("<!doctype html", "<html", "<head", "<body"))
    return _saved_pages(said) if pages else None


def _saved_pages(said: Source) -> Source:
    if not said.base_url:
        raise ListError(
            f"{said.paths[0]} holds saved pages: give the web address that they were saved from, "
            "as BASE_URL=PATH or as base_url"
        )
    return _plain(said, SourceKind.HTML_FILES, said.base_url)


def _plain(said: Source, kind: SourceKind, base_url: str | None = None) -> Source:
    """A source to which what is said of lists does not apply."""
    return Source(said.name, kind, said.paths, base_url=base_url, snapshot=said.snapshot)


def _checked(source: Source) -> Source:
    """The list, of which the columns of URL and caption were found."""
    url_lists.ignored_columns(source.paths[0], source)
    return replace(source, base_url=None)
