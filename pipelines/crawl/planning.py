"""From new files to crawl batches of about 100,000 pairs, and which files of an inbox are new.

A batch is named `<file's stem>-<8 hex digits of its path, size and version>-<number>`: a file that
was replaced by another of its name is a new one, and a known one is told by the names alone.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Unpack

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, ListFormat, Source, SourceKind
from pipelines.crawl.sources.recognise import Options, source_of
from pipelines.crawl.sources.url_lists import COMPRESSIONS, count_rows

PAIRS_PER_BATCH = 100_000
# Endings that uploads and downloads have until they are complete.
_UNFINISHED = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", "~")
_SUFFIXES = (
    *COMPRESSIONS, ".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet", ".snappy",
    ".warc", ".wat", ".html", ".htm", ".txt",
)  # fmt: skip
_STEM_CHARS = 40
_COUNTER = re.compile(r"c?\d+")
_BEFORE_COUNTER = ("part", "shard", "split", "chunk", "of")


@dataclass(frozen=True)
class NewFile:
    """A file of the inbox that is in no batch yet, and the name of its source."""

    path: str
    source: str


def plan_batches(
    path: str,
    source_name: str,
    pairs_per_batch: int = PAIRS_PER_BATCH,
    **options: Unpack[Options],
) -> list[CrawlBatch]:
    """The batches that a file, directory or glob makes; nothing is written.

    A list is cut by rows into batches of equal size. An archive is one batch, a directory of pages
    too: a WARC file of Common Crawl holds 30,000 to 40,000 pages. A list without rows is one empty
    batch, so that it is known from then on.

    Args:
        path: any that `source_of` takes but web addresses of pages and sitemaps.
        source_name: of the batches' one source.
        pairs_per_batch: aimed at; a batch has between two thirds and four thirds of it, or all.
        options: as of `source_of`.

    Raises:
        ListError: as `source_of`, and if a list cannot be counted.
    """
    source = source_of(path, source_name, **options)
    if source.kind in (SourceKind.SITEMAP, SourceKind.WEB_PAGES):
        raise ValueError(f"{path} is a web address: a batch is planned of files only")
    if source.kind is SourceKind.HTML_FILES:
        return [CrawlBatch(f"{_key(path)}-{0:04}", (source,))]
    return [
        CrawlBatch(f"{_key(file)}-{number:04}", (part,))
        for file in source.paths
        for number, part in enumerate(_parts(replace(source, paths=(file,)), pairs_per_batch))
    ]


def _parts(source: Source, pairs: int) -> list[Source]:
    if source.kind is not SourceKind.URL_LIST:
        return [source]
    rows = count_rows(source.paths[0], source)
    # Title and description of YFCC100M are up to two pairs a row.
    wanted = rows * (2 if source.format is ListFormat.YFCC100M else 1) / pairs
    parts = max(1, round(wanted))
    if parts == 1:
        return [source]
    cuts = [rows * at // parts for at in range(parts + 1)]
    return [replace(source, rows=(cuts[at], cuts[at + 1])) for at in range(parts)]


def new_files(
    inbox: str, known_batch_names: Iterable[str], settled_s: float = 60.0
) -> list[NewFile]:
    """Complete files in `inbox` and its folders that no known batch was made of, sorted.

    A file in a folder of the inbox is of the source that the folder names. A file directly in it is
    of the source that its own name tells: `cc3m-00012-of-00100.tsv.gz` is `cc3m` (see
    `source_name`). Left out are hidden files, names that begin with `_`, and files that are still
    written: by their suffix, or changed within the last `settled_s` seconds.
    """
    fs, root = storage.filesystem(inbox)
    fs.invalidate_cache()
    if not fs.isdir(root):
        return []
    known = {name.rpartition("-")[0] for name in known_batch_names}
    found = []
    for entry in _entries(fs, root):
        if entry["type"] == "directory":
            source = _plain_name(_base(entry["name"]))
            files = [e["name"] for e in _entries(fs, entry["name"]) if e["type"] == "file"]
            found += [NewFile(_url(fs, file), source) for file in files]
        else:
            found.append(NewFile(_url(fs, entry["name"]), source_name(entry["name"])))
    complete = (f for f in found if not f.path.lower().endswith(_UNFINISHED))
    settled = (f for f in complete if _settled(f.path, settled_s) and _key(f.path) not in known)
    return sorted(settled, key=lambda file: file.path)


def source_name(path: str) -> str:
    """The name of a source for one of its files: the stem without counters.

    The stem's words, parted by `-`, `_` or `.`, up to the first that is a number, without `part`,
    `shard`, `split`, `chunk` before it; `list` if nothing is left.
    """
    words = re.split(r"([-_.])", _stem(path))
    end = next((at for at, word in enumerate(words) if _COUNTER.fullmatch(word)), len(words))
    numbered = end < len(words)
    while end and (words[end - 1] in "-_." or (numbered and words[end - 1] in _BEFORE_COUNTER)):
        end -= 1
    return _plain_name("".join(words[:end]))


def _entries(fs: fsspec.AbstractFileSystem, directory: str) -> list[dict[str, str]]:
    entries = fs.ls(directory, detail=True)
    return [entry for entry in entries if not _base(entry["name"]).startswith((".", "_"))]


def _settled(path: str, settled_s: float) -> bool:
    fs, inside = storage.filesystem(path)
    try:
        modified = fs.modified(inside)
    except FileNotFoundError:
        return False
    except NotImplementedError:  # a store that shows files only when they are complete
        return True
    # A clock that is ahead must not hide a file for ever.
    aware = modified if modified.tzinfo else modified.replace(tzinfo=UTC)
    return abs((datetime.now(UTC) - aware).total_seconds()) >= settled_s


def _key(path: str) -> str:
    """What the names of a file's batches have in common."""
    fs, inside = storage.filesystem(path)
    size, version = storage.stamp(path) if fs.isfile(inside) else (None, "")
    digest = hashlib.sha256(f"{fs.unstrip_protocol(inside)}\0{size}\0{version}".encode())
    return f"{_plain_name(_stem(path)[:_STEM_CHARS])}-{digest.hexdigest()[:8]}"


def _url(fs: fsspec.AbstractFileSystem, inside: str) -> str:
    return inside if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(inside))


def _base(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _stem(path: str) -> str:
    """The file's name without the suffixes of formats and compressions."""
    stem = _base(path)
    while suffix := next((s for s in _SUFFIXES if stem.lower().endswith(s)), None):
        stem = stem[: -len(suffix)]
    return stem


def _plain_name(text: str) -> str:
    """`text` as the name of a batch or source may be."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:60] or "list"
