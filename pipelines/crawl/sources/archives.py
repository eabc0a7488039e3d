"""Web archives as sources: WARC (pages as they were sent) and WAT (Common Crawl's metadata).

What a record holds is told by the record, not by the file's name; a record that breaks costs that
record.
"""

import io
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import orjson
from fastwarc.stream_io import BrotliReader

from pipelines import storage
from pipelines.crawl.found import MAX_URL_CHARS, FoundRow, Problem
from pipelines.crawl.sources.archive_records import (
    METADATA,
    RESOURCE,
    RESPONSE,
    ArchiveError,
    Found,
    Gap,
    iterate,
    most_bytes,
)
from pipelines.crawl.sources.pages import MAX_PAGE_BYTES, page_rows, sniff_html
from pipelines.crawl.sources.parser_process import PageError
from pipelines.crawl.sources.wat import wat_rows

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})(?:[ \t][^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HEAD_BYTES = 64 * 1024
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[^\r\n]*\r?\n")
# Values of a WAT record; each takes up to 100 bytes. Records of real pages have some 10,000.
_METADATA_VALUES = 1_000_000
_HTML = ("text/html", "application/xhtml+xml")


class RecordError(ValueError):
    """A record that is not what its type says."""


class Answer(NamedTuple):
    """An archived HTTP response.

    Attributes:
        status: of its first line.
        headers: (name, value) of every line.
        first: the first value of each name, names in lower case.
        body: as it was sent.
    """

    status: int
    headers: list[tuple[str, str]]
    first: dict[str, str]
    body: bytes


def read_archive(path: str, agent: str) -> Iterator[FoundRow]:
    """Rows of one WARC or WAT file (plain, gzip, zstd or lz4), in its order.

    Pages are responses with status 200 and resources that are HTML, and WAT's descriptions of
    such; other records give nothing. A page whose headers or metas forbid its use, or a record
    that breaks, is one row with the problem.

    Args:
        path: any fsspec path.
        agent: our product token, for opt-out signals that name crawlers.

    Raises:
        ArchiveError: if the file cannot be opened or read.
    """
    try:
        fs, inside = storage.filesystem(path)
        opened = fs.open(inside, "rb")
    except Exception as error:
        raise ArchiveError(f"{path} cannot be opened: {error}; check the path") from error
    with opened as stream:
        for item in iterate(stream, path):
            if isinstance(item, Gap):
                detail = f"{path} at byte {item.position}: {item.problem}"
                yield FoundRow(None, None, None, Problem.PAGE_FAILED, detail)
            else:
                yield from _record_rows(item, agent)


def _record_rows(found: Found, agent: str) -> Iterator[FoundRow]:
    record = found.record
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    kind = (record.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    try:
        if not _may_hold_page(found.kind, kind):
            return
        if found.problem is not None:
            too_large = record.content_length > most_bytes(found.kind)
            if too_large and found.kind == RESPONSE and not _is_page(parse_answer(found.block)):
                return
            raise RecordError(found.problem)
        if found.kind == METADATA:
            if len(url) > MAX_URL_CHARS:
                raise RecordError(f"an address of more than {MAX_URL_CHARS} characters")
            yield from wat_rows(_parsed(found.block), agent)
        elif found.kind == RESOURCE:
            _check_size(found.block)
            content_type = record.headers.get("Content-Type") or ""
            yield from page_rows(found.block, url, agent, content_type=content_type)
        else:
            yield from _response_rows(parse_answer(found.block), url, agent)
    except (RecordError, PageError, orjson.JSONDecodeError) as error:
        detail = f"record {record.record_id or 'without an id'} at byte {found.position}: {error}"
        yield FoundRow(url or None, None, url or None, Problem.PAGE_FAILED, detail)


def _parsed(block: bytes) -> object:
    values = sum(map(block.count, (b",", b"{", b"[")))
    if values > _METADATA_VALUES:
        raise RecordError(f"JSON of about {values} values, more than {_METADATA_VALUES}")
    return orjson.loads(block)


def _may_hold_page(kind: int, mime: str) -> bool:
    if kind == RESPONSE:
        return mime in ("application/http", "")
    return mime in _HTML if kind == RESOURCE else mime == "application/json"


def _is_page(answer: Answer) -> bool:
    """Whether the head may be an HTML page's; without a type the body decides."""
    content_type = answer.first.get("content-type", "")
    return answer.status == 200 and (not content_type or bool(sniff_html(b"", content_type)))


def _response_rows(answer: Answer, url: str, agent: str) -> Iterator[FoundRow]:
    if not _is_page(answer):
        return iter(())
    content_type = answer.first.get("content-type", "")
    body = decoded_body(answer)
    if not content_type and not sniff_html(body[:64], ""):
        return iter(())
    return page_rows(body, url, agent, content_type=content_type, headers=answer.headers)


def parse_answer(block: bytes) -> Answer:
    """An HTTP response of its bytes, its body as it was sent.

    Raises:
        RecordError: if it does not begin with an HTTP status line and headers that end.
    """
    status = _STATUS.match(block)
    end = _HEAD_END.search(block, 0, _HEAD_BYTES)
    if status is None or end is None:
        raise RecordError(f"no HTTP response head: {block[:60]!r}")
    headers = []
    first: dict[str, str] = {}
    for line in block[status.end() : end.start()].decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.strip(), value.strip()
            headers.append((name, value))
            first.setdefault(name.lower(), value)
    return Answer(int(status[1]), headers, first, block[end.end() :])


def decoded_body(answer: Answer) -> bytes:
    """The body with its transfer and content encoding undone, at most `MAX_PAGE_BYTES`.

    Archives often name an encoding that the crawler has already undone: such a body is taken as
    it is.

    Raises:
        RecordError: if it is broken in its encoding or too large.
    """
    body = answer.body
    transfer = answer.first.get("transfer-encoding", "").lower()
    if "chunked" in transfer and _CHUNK_SIZE.match(body):
        body = _dechunked(body)
    encodings = answer.first.get("content-encoding")
    if encodings:
        for encoding in reversed(encodings.lower().split(",")):
            body = _decompressed(body, encoding.strip())
    _check_size(body)
    return body


def _check_size(body: bytes) -> None:
    if len(body) > MAX_PAGE_BYTES:
        raise RecordError(f"a page of more than {MAX_PAGE_BYTES} bytes")


def _dechunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    position = 0
    while size := _CHUNK_SIZE.match(body, position):
        length = int(size[1], 16)
        if length == 0:
            return b"".join(pieces)
        piece = body[size.end() : size.end() + length]
        if len(piece) < length:
            break
        pieces.append(piece)
        position = size.end() + length
        position += 2 if body[position : position + 2] == b"\r\n" else 1
    raise RecordError(f"wrong chunked encoding at byte {position} of the body")


def _decompressed(body: bytes, encoding: str) -> bytes:
    try:
        if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
            return _inflated(body, 31)
        if encoding == "deflate" and not body.lstrip().startswith(b"<"):
            # RFC 9110 says zlib; some servers send the bare stream.
            return _inflated(body, 15 if body[:1] and body[0] & 15 == 8 else -15)
        if encoding == "br" and not body.lstrip().startswith(b"<"):
            return _unbrotlied(body)
    except zlib.error as error:
        raise RecordError(f"wrong {encoding} encoding: {error}") from error
    return body


def _inflated(body: bytes, wbits: int) -> bytes:
    inflate = zlib.decompressobj(wbits=wbits)
    unpacked = inflate.decompress(body, MAX_PAGE_BYTES + 1)
    if not inflate.eof and len(unpacked) <= MAX_PAGE_BYTES:
        raise RecordError("the compressed body ends early")
    return unpacked


def _unbrotlied(body: bytes) -> bytes:
    try:
        with BrotliReader(io.BytesIO(body)) as reader:
            return reader.read(MAX_PAGE_BYTES + 1)
    except OSError as error:
        raise RecordError(f"wrong br encoding: {error}") from error
