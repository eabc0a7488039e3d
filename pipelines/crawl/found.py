"""Rows as a source's reader finds them, before broken ones and repeats are sorted out."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

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
    REPEAT = "repeat"


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


def to_batches(
    rows: Iterable[FoundRow], source: str, snapshot: str | None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Rows in columns, URLs normalised and each with its uid, at most `batch_rows` at a time."""
    waiting: list[Mapping[str, Any]] = []
    for row in rows:
        waiting.append(_described(row) | {"source": source, "snapshot": snapshot})
        if len(waiting) == batch_rows:
            yield pa.RecordBatch.from_pylist(waiting, schema=FOUND)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema=FOUND)


def _described(row: FoundRow) -> dict[str, Any]:
    url, caption = _plain(row.url), _plain(row.caption)
    problem, detail = row.problem, _plain(row.detail)
    if problem is None and (url, caption) != (row.url, row.caption):
        problem, detail = Problem.WRONG_ENCODING, "bytes that are not UTF-8"
    if problem is None and not (url and url.strip()):
        problem = Problem.NO_URL
    if problem is None and not (caption and identity.normalise_caption(caption)):
        problem = Problem.NO_CAPTION
    if problem is None:
        try:
            url = identity.normalise_url(url or "")
        except ValueError as error:
            problem, detail = Problem.INVALID_URL, str(error)
    return {
        "uid": _uid(url, caption, valid=problem is None),
        "url": url,
        "page_url": row.page_url,
        "caption_raw": caption,
        "found_at": datetime.now(UTC),
        "url_hash": int.from_bytes(hashlib.sha256((url or "").encode()).digest()[:4], "big"),
        "problem": problem,
        "detail": detail,
    }


def _uid(url: str | None, caption: str | None, *, valid: bool) -> bytes:
    if valid:
        return identity.uid(url or "", caption or "")
    # No pair, so no identity of a pair: a name for the reject table that stays the same.
    return hashlib.sha256(f"broken\0{url}\0{caption}".encode()).digest()[:UID_BYTES]


def _plain(text: str | None) -> str | None:
    """Text without the surrogates that undecodable bytes leave behind."""
    return None if text is None else text.encode("utf-8", "replace").decode()
