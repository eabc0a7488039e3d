"""Rows as a source's reader finds them, before broken ones and repeats are sorted out."""

import functools
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa

from pipelines import identity
from pipelines.schemas import IMAGE_TEXT_CANDIDATES, UID_BYTES


class Problem(StrEnum):
    """Why something found is no candidate; the words are reasons in the reject table."""

    BROKEN_ROW = "broken_row"
    WRONG_ENCODING = "wrong_encoding"
    NO_URL = "no_url"
    NO_CAPTION = "no_caption"
    INVALID_URL = "invalid_url"
    PAGE_OPTED_OUT = "page_opted_out"
    PAGE_FAILED = "page_failed"
    UNREADABLE_FILE = "unreadable_file"
    NOT_A_PICTURE = "not_a_picture"
    REPEAT = "repeat"
    REPEAT_OF_EARLIER_BATCH = "repeat_of_earlier_batch"


class FoundRow(NamedTuple):
    """One thing found: a pair, or what stands where a pair should be, with its problem."""

    url: str | None
    caption: str | None
    page_url: str | None = None
    problem: Problem | None = None
    detail: str | None = None


# Internal: the candidates' columns without their promise that nothing is missing.
FOUND = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        *(
            pa.field(name, IMAGE_TEXT_CANDIDATES.field(name).type)
            for name in IMAGE_TEXT_CANDIDATES.names
            if name != "uid"
        ),
        pa.field("url_hash", pa.uint32(), nullable=False),
        pa.field("problem", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


_UNREADABLE = "bytes that are not UTF-8"


def to_batches(
    rows: Iterable[FoundRow], source: str, snapshot: str | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Rows in columns, URLs normalised and each with its uid, at most `batch_rows` at a time."""
    rows = iter(rows)
    while described := [_described(row) for row in itertools.islice(rows, batch_rows)]:
        uids, urls, pages, captions, times, hashes, problems, details = zip(*described, strict=True)
        columns = {
            "uid": uids,
            "url": urls,
            "page_url": pages,
            "caption_raw": captions,
            "source": [source] * len(uids),
            "snapshot": [snapshot] * len(uids),
            "found_at": times,
            "url_hash": hashes,
            "problem": problems,
            "detail": details,
        }
        yield pa.record_batch([pa.array(columns[f.name], f.type) for f in FOUND], schema=FOUND)


# The columns that are not the same for a whole batch; times in microseconds since 1970.
_Described = tuple[
    bytes, str | None, str | None, str | None, int, int, str | None, str | None
]  # fmt: skip


def _described(row: FoundRow) -> _Described:
    url, caption, page_url, problem, detail = map(_plain, row)
    if problem is None and (url != row.url or caption != row.caption):
        problem, detail = Problem.WRONG_ENCODING, _UNREADABLE
    if problem is None and not (url and url.strip()):
        problem = Problem.NO_URL
    text = ""
    if problem is None:
        text = identity.normalise_caption(caption or "")
        problem = None if text else Problem.NO_CAPTION
    if problem is None:
        try:
            url, url_hash, known_as = _located(url or "")
        except ValueError as error:
            problem, detail = Problem.INVALID_URL, _plain(str(error))
    if problem is None:
        uid = identity.uid_of_normalised(known_as, text)
    else:
        url_hash = _hash(url or "")
        # No pair, so no identity of a pair: a name for the reject table that stays the same.
        uid = hashlib.sha256(f"broken\0{url}\0{caption}".encode()).digest()[:UID_BYTES]
    return uid, url, page_url, caption, time.time_ns() // 1000, url_hash, problem, detail


@functools.lru_cache(maxsize=4096)  # Sites show the same pictures on all their pages.
def _located(url: str) -> tuple[str, int, str]:
    """The normalised URL, its hash, and what `identity.uid` makes of it."""
    normal = identity.normalise_url(url)
    return normal, _hash(normal), identity.normalise_url(normal)


def _hash(url: str) -> int:
    return int.from_bytes(hashlib.sha256(url.encode()).digest()[:4], "big")


def _plain(text: str | None) -> str | None:
    """Text without the surrogates that undecodable bytes leave behind."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()
