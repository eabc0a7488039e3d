"""What the command is given to fetch: candidates as they are, or any Parquet file with URLs."""

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import ledger, parquet, storage
from pipelines.crawl.batches import CrawlBatch, ListFormat, Source, SourceKind
from pipelines.crawl.candidates import DATASET, write_candidates
from pipelines.crawl.config import CandidatesConfig, HttpConfig
from pipelines.crawl.http.connect import is_allowed
from pipelines.crawl.http.outcomes import Outcome
from pipelines.layout import join
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine

_REJECTS = "_rejects"
_READ_ROWS = 16_384


@dataclass(frozen=True)
class Inputs:
    """Parts of candidates.

    Attributes:
        parts: their URLs; all rows of one image URL are in one.
        content: hash of what is in them.
        finished: whether the dataset that they are of says so.
        funnel: of the rows of other Parquet files that became the parts; None for a dataset.
    """

    parts: tuple[str, ...]
    content: str
    finished: bool
    funnel: Funnel | None


def open_inputs(
    paths: Sequence[str],
    prepared: str,
    columns: tuple[str | None, str | None],
    rows_per_part: int,
    engine: Engine,
) -> Inputs:
    """Find the parts that `paths` name; files of other datasets are cut into parts first.

    Args:
        paths: directories or Parquet files.
        prepared: directory for the parts of other files; what is there is used again.
        columns: names of the columns of URL and caption in other files; the usual ones if None.
        rows_per_part: of other files.
        engine: the Beam engine that cuts them.

    Raises:
        FileNotFoundError: if a path has no Parquet files, or a finished dataset lacks some.
        ValueError: if a file is not Parquet, or its columns are not found.
    """
    files = [file for path in paths for file in _files(path)]
    if len(set(files)) < len(files):
        raise ValueError("a file is named twice")
    if not all(_is_candidates(file) for file in files):
        made = _cut(files, prepared, columns, rows_per_part, engine)
        parts = tuple(storage.list_files(prepared, ".parquet"))
        return Inputs(parts, made.content, True, made.funnel)
    directories = [path for path in paths if path not in files]
    finished = [ledger.require_parts(d) for d in directories if ledger.read_success(d)]
    done = finished[0] if finished and len(paths) == 1 else None
    if done is not None:
        return Inputs(tuple(files), done.content, True, None)
    content = ledger.content_hash({file: file_sha256(file) for file in files})
    return Inputs(tuple(files), content, False, None)


def _files(path: str) -> list[str]:
    found = storage.matching(path) or storage.list_files(path, ".parquet")
    if not found:
        raise FileNotFoundError(f"{path} is neither a Parquet file nor a directory of such files")
    return found


def _is_candidates(file: str) -> bool:
    try:
        about = parquet.read_schema(file).metadata or {}
    except ValueError as error:
        raise ValueError(
            f"{file} is not a Parquet file ({error}); make candidates of other lists with "
            "python -m pipelines.crawl.candidates"
        ) from error
    return bool(about.get(b"dataset") == DATASET.encode())


def _cut(
    files: Sequence[str],
    prepared: str,
    columns: tuple[str | None, str | None],
    rows_per_part: int,
    engine: Engine,
) -> Finished:
    url_column, caption_column = columns
    source = Source(
        "parquet",
        SourceKind.URL_LIST,
        tuple(files),
        format=ListFormat.PARQUET,
        url_column=url_column,
        caption_column=caption_column,
    )
    # Nothing is asked for over the network here, so the contact is never sent.
    config = CandidatesConfig(HttpConfig(contact="nobody"), rows_per_part=rows_per_part)
    batch = CrawlBatch("command", (source,))
    return write_candidates(batch, prepared, join(prepared, _REJECTS), config, engine)


def file_sha256(url: str) -> str:
    """SHA-256, in hex, of a file's content."""
    return hashlib.sha256(storage.read_bytes(url)).hexdigest()


def count_urls(parts: Sequence[str]) -> int:
    """Different URLs in parts of candidates; each is in one part."""
    return sum(
        len(set().union(*(b.column("url").to_pylist() for b in _urls(part)))) for part in parts
    )


def is_on_this_machine(parts: Sequence[str]) -> bool:
    """Whether every URL is of a loopback address, so that no site owner is asked for anything."""
    hosts: set[str] = set()
    for part in parts:
        for batch in _urls(part):
            urls = pc.unique(batch.column("url")).to_pylist()
            new = {urlsplit(url).hostname or "" for url in urls} - hosts
            if not all(_is_loopback(host) for host in new):
                return False
            hosts |= new
    return True


def _urls(part: str) -> Iterator[pa.RecordBatch]:
    return parquet.read_batches(part, columns=["url"], rows=_READ_ROWS)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def private_rows(parts: Sequence[str], allow_networks: tuple[str, ...]) -> tuple[int, str]:
    """How many `unsafe_address` rows of fetched pairs name an address that is not public.

    Hosts given by name do not count, but for `localhost`. The second value is one such address.
    """
    rows, example = 0, ""
    for part in parts:
        for batch in parquet.read_batches(part, columns=["url", "outcome"], rows=_READ_ROWS):
            unsafe = batch.filter(pc.equal(batch.column("outcome"), Outcome.UNSAFE_ADDRESS.value))
            for url in unsafe.column("url").to_pylist():
                address = _address(urlsplit(url).hostname or "")
                if address is not None and not is_allowed(address, allow_networks):
                    rows, example = rows + 1, example or address
    return rows, example


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "127.0.0.1" if _is_loopback(host) else None
