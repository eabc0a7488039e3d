"""Answers of hostile servers by path, and how a fetch of each ends."""

import gzip
import io
import zipfile
import zlib

from hostile import (
    HEAD,
    PNG,
    chunked,
    drips,
    floods,
    full,
    redirect,
    resets,
    silent,
)

from pipelines.crawl.http.outcomes import Outcome

BAD, UNSAFE, OK = Outcome.BAD_RESPONSE, Outcome.UNSAFE_ADDRESS, Outcome.OK

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIPPED = "Content-Encoding: gzip"


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", content)
    return stream.getvalue()


def bomb(levels=1):
    body = gzip.compress(PNG + bytes(100_000_000), 6)
    for _ in range(levels - 1):
        body = gzip.compress(body)
    return body


# Path on the hostile server: (what it does, how the fetch ends).
RESPONSES = {
    "fine": (full(PNG), OK),
    "chunks": (chunked([PNG[:5], PNG[5:], b""]), OK),
    "until_close": (HEAD + b"\r\n" + PNG, OK),
    "lines_end_in_lf": (HEAD.replace(b"\r", b"") + b"\n" + PNG, OK),
    "early_hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + full(PNG), OK),
    "more_than_announced": (full(PNG) + b"HTTP/1.1 200 OK\r\n" * 9, OK),
    "gzip_members": (full(gzip.compress(PNG[:9]) + gzip.compress(PNG[9:]), GZIPPED), OK),
    "zlib": (full(zlib.compress(PNG), "Content-Encoding: deflate"), OK),
    # Sizes
    "header_flood": (floods(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 4096), BAD),
    "header_without_end": (floods(b"HTTP/1.1 200 OK\r\nX-A: "), BAD),
    "interim_without_end": (floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999), BAD),
    "status_line_without_end": (floods(b"HTTP/1.1 200 ", b"x" * 9999), BAD),
    "chunk_extension_flood": (floods(CHUNKED + b"5;a=", b"x" * 9999), BAD),
    "trailer_flood": (floods(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 4096), BAD),
    "tiny_chunks": (floods(CHUNKED + b"6c\r\n" + PNG + b"\r\n", b"1;aaaaa\r\nx\r\n" * 4096), BAD),
    "gzip_bomb": (full(bomb(), GZIPPED), Outcome.TOO_LARGE),
    "gzip_bomb_twice": (full(bomb(2), GZIPPED), Outcome.NOT_AN_IMAGE),
    "gzip_in_gzip_announced": (full(bomb(2), "Content-Encoding: gzip, gzip"), BAD),
    "zip_in_gzip": (full(gzip.compress(zipped(PNG)), GZIPPED), Outcome.NOT_AN_IMAGE),
    "zeros": (floods(HEAD + b"\r\n"), Outcome.NOT_AN_IMAGE),
    "zeros_after_png": (floods(HEAD + b"\r\n" + PNG), Outcome.TOO_LARGE),
    "zeros_announced": (floods(HEAD + b"Content-Length: 600000000\r\n\r\n"), Outcome.TOO_LARGE),
    "zeros_in_chunks": (
        floods(CHUNKED + b"6c\r\n" + PNG + b"\r\n", b"10000\r\n" + bytes(65536) + b"\r\n"),
        Outcome.TOO_LARGE,
    ),
    # Slowness
    "slow_status": (drips(b"HTT", b"P"), BAD),
    "slow_reason": (drips(b"HTTP/1.1 200 O", b"K"), Outcome.TIMEOUT),
    "slow_headers": (drips(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), Outcome.TIMEOUT),
    "slow_header_value": (drips(b"HTTP/1.1 200 OK\r\nX-A: "), Outcome.TIMEOUT),
    "slow_interim": (drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), Outcome.TIMEOUT),
    "slow_body": (drips(HEAD + b"\r\n" + PNG), Outcome.TIMEOUT),
    "slow_first_bytes": (drips(HEAD + b"\r\n\x89"), Outcome.TIMEOUT),
    "slow_announced_body": (drips(HEAD + b"Content-Length: 9999\r\n\r\n"), Outcome.TIMEOUT),
    "slow_chunk_size": (drips(CHUNKED, b"0"), Outcome.TIMEOUT),
    "slow_chunk_extension": (drips(CHUNKED + b"5;a="), Outcome.TIMEOUT),
    "slow_trailer": (drips(CHUNKED + b"0\r\n", b"X-A: b\r\n"), Outcome.TIMEOUT),
    "slow_gzip": (drips(HEAD + b"Content-Encoding: gzip\r\n\r\n", b"\x1f"), BAD),
    "silence": (silent, Outcome.TIMEOUT),
    "silence_after_head": (
        lambda conn: (conn.sendall(HEAD + b"Content-Length: 50\r\n\r\n"), silent(conn)),
        Outcome.TIMEOUT,
    ),
    # Wrong lengths
    "too_short": (HEAD + b"Content-Length: 500\r\n\r\n" + PNG, BAD),
    "lengths_differ": (HEAD + b"Content-Length: 108\r\nContent-Length: 9\r\n\r\n" + PNG, BAD),
    "length_list": (HEAD + b"Content-Length: 108, 9\r\n\r\n" + PNG, BAD),
    "negative_length": (HEAD + b"Content-Length: -1\r\n\r\n" + PNG, BAD),
    "length_overflow": (HEAD + b"Content-Length: %d\r\n\r\n" % 2**70 + PNG, BAD),
    "length_and_chunks": (
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "chunk_overflow": (CHUNKED + b"f" * 17 + b"\r\n" + PNG, BAD),
    "chunk_garbage": (CHUNKED + b"xyz\r\n" + PNG, BAD),
    "chunks_end_early": (chunked([PNG]), BAD),
    "gzip_ends_early": (full(gzip.compress(PNG)[:-9], GZIPPED), BAD),
    "gzip_garbage": (full(PNG, GZIPPED), BAD),
    "gzip_then_garbage": (full(gzip.compress(PNG) + b"garbage", GZIPPED), BAD),
    "brotli": (full(PNG, "Content-Encoding: br"), BAD),
    "odd_transfer_coding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    # Broken connections
    "closed_at_once": (b"", BAD),
    "closed_in_head": (b"HTTP/1.1 200 OK\r\nContent-", BAD),
    "reset_in_head": (resets(b"HTTP/1.1 200 OK\r\n"), BAD),
    "reset_in_body": (resets(HEAD + b"Content-Length: 999\r\n\r\n" + PNG), BAD),
    "half_closed": (
        lambda conn: (conn.sendall(HEAD), conn.shutdown(1), silent(conn)),
        BAD,
    ),
    # Not HTTP, not a picture
    "http_0_9": (PNG, BAD),
    "garbage": (bytes(range(256)) * 40, BAD),
    "http_2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD),
    "switched": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + PNG,
        BAD,
    ),
    "a_part": (full(PNG, status="206 Partial Content"), BAD),
    "html": (full(b"<!doctype html><title>x</title>" * 9), Outcome.NOT_AN_IMAGE),
    "svg": (full(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 9), Outcome.NOT_AN_IMAGE),
    "empty": (full(b""), Outcome.NOT_AN_IMAGE),
    "nul_in_header": (b"HTTP/1.1 200 OK\r\nX-\0: a\r\n\r\n" + PNG, BAD),
    # Redirects
    "loop": (redirect("/loop"), Outcome.TOO_MANY_REDIRECTS),
    "to_file": (redirect("file:///etc/passwd"), Outcome.INVALID_URL),
    "to_data": (redirect("data:image/png;base64,AAAA"), Outcome.INVALID_URL),
    "to_nothing": (redirect("http://:80/"), Outcome.INVALID_URL),
    "to_brackets": (redirect("http://[x"), Outcome.INVALID_URL),
    "to_long": (redirect("/" + "x" * 9000), Outcome.INVALID_URL),
    "to_metadata": (redirect("http://169.254.169.254/latest/"), UNSAFE),
    "to_closed": (redirect("/closed/a.png"), Outcome.OPTED_OUT),
}  # fmt: skip
