"""The body of a response: its encoding undone, its type decided by the first bytes, all bounded."""

import functools
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pipelines.crawl.http.message import Exchange
from pipelines.crawl.http.outcomes import FetchError, Outcome

_PIECE = 65536
_HEAD = 32
_ENCODINGS = ("gzip", "x-gzip", "deflate")

Sniff = Callable[[bytes, str], str | None]


class Wanted(NamedTuple):
    """Which body is wanted.

    Attributes:
        sniff: gets the first bytes (none of an empty body) and the Content-Type; None refuses it.
        otherwise: the outcome of such a refusal.
        max_bytes: limit of the body, as received and decoded.
        min_bytes_per_s: slowest acceptable transfer.
        cut: take the first `max_bytes` of a longer body instead of refusing it.
    """

    sniff: Sniff
    otherwise: Outcome
    max_bytes: int
    min_bytes_per_s: int
    cut: bool = False


def sniff_image(head: bytes, _content_type: str = "") -> str | None:
    """MIME type of a JPEG, PNG, GIF, WebP or AVIF, by its first 32 bytes; None for all else.

    AVIF only where the installed Pillow can decode it.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and _is_avif(head[8:12], head[16:32]) and _decodes_avif():
        return "image/avif"
    return None


def _is_avif(brand: bytes, compatible: bytes) -> bool:
    """Whether a file is AVIF (av1-avif, section 9.1): by its brand, or as an image that fits it."""
    brands = [compatible[at : at + 4] for at in range(0, len(compatible), 4)]
    return brand in (b"avif", b"avis") or (brand in (b"mif1", b"msf1") and b"avif" in brands)


@functools.cache
def _decodes_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def read_body(exchange: Exchange, wanted: Wanted) -> tuple[bytes, str]:
    """The decoded body and the type that its first bytes gave.

    Raises:
        FetchError: `too_large`, `wanted.otherwise`, `bad_response` if an encoding is unknown or the
            body ends early, `too_slow` or `timeout`.
        OSError: if the connection breaks.
    """
    content_type = exchange.header("content-type") or ""
    declared = exchange.header("content-length") or ""
    if not wanted.cut and declared.isdecimal() and int(declared) > wanted.max_bytes:
        raise _too_large(wanted, f"Content-Length {declared}")
    # BytesIO gives its buffer away without a copy: a body is in memory once.
    body = io.BytesIO()
    mime: str | None = None
    for piece in _decoded(exchange, wanted):
        body.write(piece)
        if mime is None and body.tell() >= _HEAD:
            mime = _sniffed(wanted, body, content_type)
        if body.tell() > wanted.max_bytes:
            if not wanted.cut:
                raise _too_large(wanted, "decoded")
            body.truncate(wanted.max_bytes)
            break
    return body.getvalue(), mime or _sniffed(wanted, body, content_type)


def _sniffed(wanted: Wanted, body: io.BytesIO, content_type: str) -> str:
    head = bytes(body.getbuffer()[:_HEAD])
    mime = wanted.sniff(head, content_type)
    if mime is None:
        words = f"Content-Type {content_type[:100]!r}, first bytes {head[:12]!r}"
        raise FetchError(wanted.otherwise, words)
    return mime


def _too_large(wanted: Wanted, what: str) -> FetchError:
    return FetchError(Outcome.TOO_LARGE, f"more than {wanted.max_bytes} bytes ({what})")


def _decoded(exchange: Exchange, wanted: Wanted) -> Iterator[bytes]:
    """The body in pieces of at most 64 KiB, its content encoding undone."""
    pieces = _counted(exchange.body(wanted.min_bytes_per_s), wanted)
    encoding = (exchange.header("content-encoding") or "identity").lower()
    if encoding == "identity":
        return pieces
    if encoding in _ENCODINGS:
        return _inflated(pieces)
    raise FetchError(Outcome.BAD_RESPONSE, f"Content-Encoding {encoding[:40]!r} was not asked for")


def _counted(pieces: Iterable[bytes], wanted: Wanted) -> Iterator[bytes]:
    received = 0
    for piece in pieces:
        received += len(piece)
        # A body that is cut is cut where it is decoded; here only what nobody could want ends.
        if received > wanted.max_bytes and not wanted.cut:
            raise _too_large(wanted, "received")
        yield piece


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Gzip, with its members one after another (RFC 1952, section 2.2), or zlib.

    Raises:
        FetchError: `bad_response` if the data is broken, ends early, or is followed by other data.
    """
    inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    try:
        for piece in pieces:
            data = piece
            while data:
                if inflate.eof:
                    if not data.startswith(b"\x1f"):
                        raise FetchError(Outcome.BAD_RESPONSE, "data after the compressed body")
                    inflate = zlib.decompressobj(wbits=31)
                yield inflate.decompress(data, _PIECE)
                data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        while not inflate.eof and (rest := inflate.decompress(b"", _PIECE)):
            yield rest
    except zlib.error as error:
        raise FetchError(Outcome.BAD_RESPONSE, f"compressed body: {error}") from error
    if not inflate.eof:
        raise FetchError(Outcome.BAD_RESPONSE, "the compressed body ends early")
