"""Records of a WARC or WAT file as a stream, going on behind what is broken.

fastwarc reads; where it gives up, the next record is looked for in the raw bytes: the next gzip
member that begins with a record (Common Crawl packs each record by itself), or the next
`WARC/1.` of an uncompressed file. Other compressions have no place to go on at.
"""

import os
import zlib
from collections.abc import Generator, Iterator
from typing import IO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

MAX_BLOCK_BYTES = 32 * 1024 * 1024
# JSON takes 25 times its bytes when it is parsed.
MAX_METADATA_BYTES = 8 * 1024 * 1024
# As numbers: the flags' own operators are slow.
RESPONSE = int(WarcRecordType.response)
RESOURCE = int(WarcRecordType.resource)
METADATA = int(WarcRecordType.metadata)
_GZIP = b"\x1f\x8b\x08"
_START = b"WARC/1."
_NEXT = b"\r\n\r\n" + _START
_CHUNK = 1 << 16
_PROBE = 1024
# fastwarc raises these for broken data.
_BROKEN = (OSError, ValueError, RuntimeError, EOFError)


class ArchiveError(RuntimeError):
    """An archive whose file cannot be read at all, with what to do."""


class Found(NamedTuple):
    """A record.

    Attributes:
        record: for its WARC headers, until the next one is asked for.
        kind: RESPONSE, RESOURCE or METADATA.
        position: offset of the record in the file, in bytes.
        block: what follows the WARC headers; only the beginning if there is a problem.
        problem: why the block is not whole, if it is not.
    """

    record: WarcRecord
    kind: int
    position: int
    block: bytes
    problem: str | None


class Gap(NamedTuple):
    """A place in the file, as an offset in bytes, where no record can be read."""

    position: int
    problem: str


def iterate(stream: IO[bytes], path: str) -> Iterator[Found | Gap]:
    """Records of the types that hold pages, and the gaps between records, in the file's order.

    Args:
        stream: the file; without `seek` nothing behind the first gap is found.
        path: for messages.

    Raises:
        ArchiveError: if the file cannot be read.
    """
    raw = _Raw(stream, path)
    start: int | None = 0
    careful = False
    while start is not None:
        start = yield from _records_from(raw, start, careful=careful)
        careful = True


class _Raw:
    """The file; tells failures to read it from broken data."""

    def __init__(self, stream: IO[bytes], path: str):
        self._stream = stream
        self._path = path
        self._position = 0
        self.failed = False
        self._first = self._read(_PROBE)
        self.packed = self._first.startswith(_GZIP)
        try:
            stream.seek(0)
            self._seeks = True
        except (OSError, ValueError):  # A web server that sends no lengths or ranges.
            self._seeks = False
        self.resumable = self._seeks and (self.packed or self._first.startswith(_START))

    def read(self, size: int = -1) -> bytes:
        if self._first and not self._seeks:
            data, self._first = self._first, b""
        else:
            data = self._read(size)
        self._position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except Exception as error:
            self.failed = True
            raise ArchiveError(f"{self._path} cannot be read: {error}; try again") from error

    def seek(self, offset: int, whence: int = 0) -> int:
        if self._seeks:
            self._position = self._stream.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Leave the file open: reading goes on behind a gap."""


def most_bytes(kind: int) -> int:
    """The largest block that is read of a record of that kind."""
    return MAX_METADATA_BYTES if kind == METADATA else MAX_BLOCK_BYTES


def _records_from(
    raw: _Raw, start: int, *, careful: bool
) -> Generator[Found | Gap, None, int | None]:
    """Records up to the first gap; returns where to go on, None at the end.

    fastwarc leaps over what is not read, as far as the record says. With `careful` that is searched
    for the next record too: many may say that they are as long as the file.
    """
    raw.seek(start)
    last: WarcRecord | None = None
    whole, wanted = True, False
    problem: str | None = None
    try:
        for record in ArchiveIterator(raw, parse_http=False):
            kind = int(record.record_type)
            last, whole, wanted = record, True, kind in (RESPONSE, RESOURCE, METADATA)
            runs_over = False
            if wanted:
                found, runs_over = _read(record, kind)
                whole = found.problem is None
                yield found
            if careful and not runs_over and _runs_over(record):
                runs_over = True
                if whole:
                    whole = False
                    yield Gap(record.stream_pos, _too_long(record))
            if runs_over:
                break
    except _BROKEN as error:
        if raw.failed:
            raise
        problem = str(error)
    position = start if last is None else last.stream_pos
    if whole:
        end = start if last is None else _end(raw, start, last)
        if problem is None and raw.resumable and (end is None or _has_data(raw, end)):
            problem = "the file ends inside a record"
        if problem is None:
            return None
        if last is not None and not wanted and not careful and _begins_at(raw, position):
            return position
        position = position if end is None else end
        yield Gap(position, problem)
    return _next_start(raw, position + 1)


def _read(record: WarcRecord, kind: int) -> tuple[Found, bool]:
    """The record, and whether its length runs over the next one.

    It is read up to there only: many records may say that they are as long as the file.
    """
    size, position, most = record.content_length, record.stream_pos, most_bytes(kind)
    problem: str | None = None
    if record.headers.get("Content-Length") is None:
        problem = "its head has no Content-Length"
        return Found(record, kind, position, b"", problem), False
    block = bytearray()
    over = -1
    try:
        while len(block) < min(size, most) and (piece := record.reader.read(_CHUNK)):
            searched = max(len(block) - len(_NEXT), 0)
            block += piece
            over = block.find(_NEXT, searched)
            if over >= 0 or size > most:
                break
    except ArchiveError:
        raise
    except _BROKEN as error:
        problem = str(error)
    else:
        if over >= 0:
            problem = _too_long(record)
        elif size > most:
            problem = f"{size} bytes are more than {most}"
        elif len(block) < size:
            problem = f"ends after {len(block)} of {size} bytes"
    return Found(record, kind, position, bytes(block), problem), over >= 0


def _too_long(record: WarcRecord) -> str:
    return f"its length of {record.content_length} bytes runs over the next record"


def _runs_over(record: WarcRecord) -> bool:
    """Whether what is left of a record holds the beginning of another; reads up to there."""
    tail = b""
    while piece := record.reader.read(_CHUNK):
        if _NEXT in tail + piece:
            return True
        tail = piece[-len(_NEXT) :]
    return False


def _begins_at(raw: _Raw, position: int) -> bool:
    """Whether reading can begin at a record: many may share a gzip member."""
    raw.seek(position)
    return raw.resumable and (not raw.packed or raw.read(len(_GZIP)) == _GZIP)


def _end(raw: _Raw, start: int, record: WarcRecord) -> int | None:
    """Where a whole record ends in the file; None if it does not, or nobody can say.

    Of a gzip member with many records, it is where the member ends.
    """
    position = record.stream_pos
    if not raw.resumable:
        return None
    raw.seek(position)
    if not raw.packed:
        head = raw.read(_CHUNK).find(b"\r\n\r\n")
        block_end = position + head + 4 + record.content_length
        return block_end + 4 if block_end <= raw.seek(0, os.SEEK_END) else None
    if raw.read(len(_GZIP)) == _GZIP:
        return _member_end(raw, position)
    end: int | None = start
    while end is not None and end <= position and _has_data(raw, end):
        end = _member_end(raw, end)
    return end


def _member_end(raw: _Raw, position: int) -> int | None:
    raw.seek(position)
    inflate = zlib.decompressobj(wbits=31)
    try:
        while not inflate.eof:
            packed = raw.read(_CHUNK)
            if not packed:
                return None
            while packed and not inflate.eof:
                inflate.decompress(packed, _CHUNK)
                packed = inflate.unconsumed_tail
    except zlib.error:
        return None
    return raw.tell() - len(inflate.unused_data)


def _has_data(raw: _Raw, position: int) -> bool:
    """Whether anything but padding follows."""
    raw.seek(position)
    while data := raw.read(_CHUNK):
        if data.strip(b"\0\r\n"):
            return True
    return False


def _next_start(raw: _Raw, position: int) -> int | None:
    """Where the next record begins, at `position` or behind."""
    if not raw.resumable:
        return None
    needle = _GZIP if raw.packed else b"\n" + _START
    while True:
        raw.seek(position)
        data = raw.read(_CHUNK)
        if len(data) < len(needle):
            return None
        at = data.find(needle)
        while at >= 0:
            if not raw.packed:
                return position + at + 1
            if len(data) - at < _PROBE and len(data) == _CHUNK:
                break
            if _is_record(data[at : at + _PROBE]):
                return position + at
            at = data.find(needle, at + 1)
        position += at if at > 0 else len(data) - len(needle) + 1


def _is_record(member: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=31).decompress(member, len(_START)) == _START
    except zlib.error:
        return False
