"""Rows as a source's reader finds them, before broken ones and repeats are sorted out."""

import functools
import hashlib
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple, overload

import pyarrow as pa

from pipelines import identity
from pipelines.schemas import IMAGE_TEXT_CANDIDATES, UID_BYTES


class Problem(StrEnum):
    """Why something found is no candidate; the words are reasons in the reject table."""

    BROKEN_ROW = "broken_row"
    WRONG_ENCODING = "wrong_encoding"
    NO_URL = "no_url"
    NO_CAPTION = "no_caption"
    CAPTION_TOO_LONG = "caption_too_long"
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


MAX_CAPTION_CHARS = 10_000
MAX_URL_CHARS = 8_192
_LONG_URL = f"more than {MAX_URL_CHARS} characters"
_UNREADABLE = "bytes that are not UTF-8"
# What a reject keeps of a URL or caption that is too long, and of what it says about itself.
_KEPT_CHARS = 1_000
# Texts of one batch in bytes, 4 for a character that is not ASCII: Python and Arrow hold each
# several times.
_BATCH_BYTES = 32_000_000
# Longer URLs are not remembered: they would fill the memory.
_REMEMBERED_CHARS = 1_000


def to_batches(
    rows: Iterable[FoundRow], source: str, snapshot: str | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Rows in columns, URLs normalised and each with its uid, at most `batch_rows` at a time.

    Fewer where their texts are long. A caption of more than `MAX_CAPTION_CHARS` or a URL of more
    than `MAX_URL_CHARS` is a problem, and cut.
    """
    described = map(_described, rows)
    while (batch := _batch(described, source, snapshot, batch_rows)) is not None:
        yield batch


# The columns that are not the same for a whole batch; times in microseconds since 1970.
_Described = tuple[
    bytes, str | None, str | None, str | None, int, int, str | None, str | None
]  # fmt: skip


def _batch(
    rows: Iterator[_Described], source: str, snapshot: str | None, most: int
) -> pa.RecordBatch | None:
    """The next rows as columns; None at the end. Its own function, so that the rows can go."""
    taken: list[_Described] = []
    size = 0
    for row in rows:
        taken.append(row)
        _, url, page, caption, _, _, _, detail = row
        for text in (url, page, caption, detail):
            if text is not None:
                size += len(text) if text.isascii() else 4 * len(text)
        if len(taken) >= most or size >= _BATCH_BYTES:
            break
    if not taken:
        return None
    uids, urls, pages, captions, times, hashes, problems, details = zip(*taken, strict=True)
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
    return pa.record_batch([pa.array(columns[f.name], f.type) for f in FOUND], schema=FOUND)


def _described(row: FoundRow) -> _Described:
    chars = len(row.caption or "")
    # First of all: one long text may be shared by many rows, each of which would go through it.
    url_start, caption_start = _start(row.url, MAX_URL_CHARS), _start(row.caption, _KEPT_CHARS)
    if chars <= MAX_CAPTION_CHARS:
        caption_start = row.caption
    url, caption = without_surrogates(url_start), without_surrogates(caption_start)
    page_url = without_surrogates(_start(row.page_url, MAX_URL_CHARS))
    problem, detail = row.problem, without_surrogates(_start(row.detail, _KEPT_CHARS))
    if problem is None and (url != url_start or caption != caption_start):
        problem, detail = Problem.WRONG_ENCODING, _UNREADABLE
    if problem is None and not (url and url.strip()):
        problem = Problem.NO_URL
    if problem is None and chars > MAX_CAPTION_CHARS:
        problem = Problem.CAPTION_TOO_LONG
        detail = f"{chars} characters are more than {MAX_CAPTION_CHARS}"
    text = ""
    if problem is None:
        text = identity.normalise_caption(caption or "")
        problem = None if text else Problem.NO_CAPTION
    if problem is None:
        try:
            if len(row.url or "") > MAX_URL_CHARS:
                raise ValueError(_LONG_URL)
            locate = _remembered if len(url or "") <= _REMEMBERED_CHARS else _located
            url, url_hash, known_as = locate(url or "")
        except ValueError as error:
            problem, detail = Problem.INVALID_URL, without_surrogates(str(error))
    if problem is None:
        uid = identity.uid_of_normalised(known_as, text)
    else:
        if len(row.url or "") > MAX_URL_CHARS:
            url = _start(url, _KEPT_CHARS)
        url_hash = _hash(url or "")
        # No pair, so no identity of a pair: a name for the reject table that stays the same.
        uid = hashlib.sha256(f"broken\0{url}\0{caption}".encode()).digest()[:UID_BYTES]
    return uid, url, page_url, caption, time.time_ns() // 1000, url_hash, problem, detail


def _located(url: str) -> tuple[str, int, str]:
    """The normalised URL, its hash, and what `identity.uid` makes of it."""
    normal = identity.normalise_url(url)
    if len(normal) > MAX_URL_CHARS:
        raise ValueError(_LONG_URL)
    return normal, _hash(normal), identity.normalise_url(normal)


# Sites show the same pictures on all their pages.
_remembered = functools.lru_cache(maxsize=4096)(_located)


def _start(text: str | None, chars: int) -> str | None:
    return text if text is None else text[:chars]


def _hash(url: str) -> int:
    return int.from_bytes(hashlib.sha256(url.encode()).digest()[:4], "big")


@overload
def without_surrogates(text: str) -> str: ...
@overload
def without_surrogates(text: None) -> None: ...
def without_surrogates(text: str | None) -> str | None:
    """Text without the surrogates that undecodable bytes leave behind; a `?` stands for each."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()
