"""Lines of a text file, plain or compressed, from any fsspec path, in blocks of bounded size.

What cannot be read as a line is a `Damage` in its place, so that nothing is lost without a word.
"""

import bz2
import codecs
import contextlib
import io
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import zstandard

from pipelines import storage
from pipelines.crawl.found import FoundRow, Problem, without_surrogates

# Longer lines are no rows of a list; they would only fill the memory.
LINE_CHARS = 1_000_000
_CHUNK = 1 << 20
# Compressed bytes decoded at once. In zstd 4 bytes can stand for 128 KiB, so these for 8 MiB.
_SLICE = 256
# What `xz -9` needs is half of it; a damaged or hostile head can ask for 4 GiB.
_XZ_BYTES = 128 * 1024 * 1024
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

Item = TypeVar("Item")


class ListError(ValueError):
    """A list that cannot be read at all, with what to do."""

    def __init__(self, message: str):
        """A message that may quote what the list holds, decodable or not."""
        super().__init__(without_surrogates(message))


@dataclass(frozen=True)
class Damage:
    """A place of a list that cannot be read, and why."""

    detail: str


def broken(detail: str) -> FoundRow:
    """What stands for a row, or several, that cannot be read."""
    return FoundRow(None, None, problem=Problem.BROKEN_ROW, detail=detail)


class Stored(io.RawIOBase):
    """The bytes of a file; a failure of its storage is a ListError, never a damage of its data."""

    def __init__(self, stream: IO[bytes], path: str):
        self._stream = stream
        self._path = path

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether its storage can start anywhere."""
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file.

        Raises:
            ListError: if the storage fails.
        """
        with self._failing():
            self._stream.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        """As of any file."""
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` and say how much of it; 0 at the end.

        Raises:
            ListError: if the storage fails.
        """
        with self._failing():
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file of the storage too."""
        if not self.closed:
            self._stream.close()
        super().close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every filesystem has errors of its own
            raise ListError(
                f"reading {self._path} failed ({type(error).__name__}: {error}); run it again"
            ) from error


def open_stored(path: str) -> Stored:
    """The file as it is stored.

    Raises:
        ListError: if it cannot be opened, with what to do.
    """
    try:
        fs, inside = storage.filesystem(path)
        return Stored(fs.open(inside, "rb"), path)
    except FileNotFoundError as error:
        raise ListError(f"{path} cannot be read: it is not there; check the path") from error
    except ImportError as error:
        raise ListError(f"{path} cannot be read: {error}; install that package") from error
    except Exception as error:  # every filesystem has errors of its own
        detail = f"{type(error).__name__}: {error}"
        raise ListError(f"{path} cannot be read ({detail}); check the path") from error


def read_chunks(path: str) -> Generator[bytes, None, None]:
    """The file's bytes without compression, which its first bytes tell, not its suffix.

    Raises:
        ListError: if the file cannot be opened or its storage fails.
        EOFError, OSError, ...: one of those in `_DAMAGED` after what came before a damage.
    """
    with io.BufferedReader(open_stored(path), _CHUNK) as raw:
        new_decoder = _decoder(raw.peek(8)[:8])
        if new_decoder is not None:
            yield from _decoded(raw, new_decoder)
            return
        while data := raw.read(_CHUNK):
            yield data


def read_head(path: str, size: int) -> bytes:
    """About the first `size` bytes of a file, without compression; empty if it is.

    Raises:
        ListError: if not one byte of the file can be read.
    """
    head = b""
    chunks = read_chunks(path)
    try:
        while len(head) < size and (data := next(chunks, b"")):
            head += data
    except _DAMAGED as error:
        if not head:
            raise _all_damaged(path, error) from error
    finally:
        chunks.close()
    return head[:size]


def _all_damaged(path: str, error: Exception) -> ListError:
    return ListError(
        f"{path} cannot be read: its compression is damaged from the start ({error}); "
        "fetch it again"
    )


def _decoder(head: bytes) -> Callable[[], Any] | None:
    """What makes a decoder of the compression that a file begins with; None if it has none."""
    if head.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(wbits=31)
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if head.startswith(b"\xfd7zXZ\x00"):
        return lambda: lzma.LZMADecompressor(memlimit=_XZ_BYTES)
    # RFC 8878, sections 3.1.1 and 3.1.2: a frame, or a skippable one before it.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return lambda: zstandard.ZstdDecompressor().decompressobj()
    return None


def _decoded(raw: IO[bytes], new: Callable[[], Any]) -> Iterator[bytes]:
    """What the streams in `raw`, one after another, decode; all of it also where that fails.

    The readers of the standard library lose what a failing read began with, and take what follows
    a stream and is none for the end.
    """
    decoder, done = None, bytearray()
    try:
        while data := raw.read(_SLICE):
            data = data if decoder else data.lstrip(b"\0")
            while data:
                decoder = decoder or new()
                done += decoder.decompress(data)
                data = b""
                if decoder.eof:  # zeros between streams are padding
                    data, decoder = decoder.unused_data.lstrip(b"\0"), None
            if len(done) >= _CHUNK:
                yield bytes(done)
                done.clear()
        if decoder is not None:
            raise EOFError("it ends before its compression does")
    except _DAMAGED:
        if done:
            yield bytes(done)
        raise
    if done:
        yield bytes(done)


def read_lines(path: str) -> Iterator[list[str | Damage]]:
    """Lines in blocks, without their ends (LF or CRLF); the empty ones too.

    Text is UTF-8, or UTF-16 with a byte order mark. Bytes that are neither become surrogates, so
    that the row they are in can be told apart.

    Raises:
        ListError: if not one byte of the file can be read.
    """
    rest, skipping = "", False
    for text in _texts(path):
        if isinstance(text, Damage):
            # The line that the damage cuts is a part of it.
            yield [text]
            return
        lines = (rest + text).replace("\r\n", "\n").split("\n")
        rest = lines.pop()
        if skipping and lines:
            lines, skipping = lines[1:], False
        if skipping:
            rest = ""
        elif len(rest) > LINE_CHARS:
            lines, rest, skipping = [*lines, rest], "", True
        if lines:
            yield _bounded(lines)
    if rest:
        yield _bounded([rest.removesuffix("\r")])


def filled_lines(path: str) -> Iterator[list[str | Damage]]:
    """As `read_lines`, without the lines that hold nothing but white space."""
    for block in read_lines(path):
        yield [line for line in block if isinstance(line, Damage) or (line and not line.isspace())]


def _bounded(lines: list[str]) -> list[str | Damage]:
    if max(map(len, lines)) <= LINE_CHARS:
        return list(lines)
    wide = f"a line of more than {LINE_CHARS} characters: "
    return [Damage(wide + line[:200]) if len(line) > LINE_CHARS else line for line in lines]


def _texts(path: str) -> Iterator[str | Damage]:
    decoder = None
    size = 0
    try:
        for data in read_chunks(path):
            decoder = decoder or text_decoder(data)
            size += len(data)
            yield decoder.decode(data)
    except _DAMAGED as error:
        if size == 0:
            raise _all_damaged(path, error) from error
        yield Damage(f"compression damaged after {size} decoded bytes: {error}")
        return
    if decoder is not None:
        try:
            yield decoder.decode(b"", True)
        except UnicodeDecodeError:  # half a UTF-16 character
            yield "\udcff"


def text_decoder(head: bytes) -> codecs.IncrementalDecoder:
    """The decoder of a text that begins with `head`; bytes that do not decode become surrogates."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return codecs.getincrementaldecoder("utf-16")("surrogatepass")
    return codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")


def sliced(blocks: Iterable[list[Item]], rows: tuple[int, int] | None) -> Iterator[list[Item]]:
    """The part of all items that `rows` says, half-open; nothing after its end is read."""
    if rows is None:
        yield from blocks
        return
    first, end = rows
    at = 0
    for block in blocks:
        if at + len(block) > first:
            yield block[max(first - at, 0) : end - at]
        at += len(block)
        if at >= end:
            return
