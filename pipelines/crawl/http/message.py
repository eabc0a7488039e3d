"""One HTTP/1.1 request and its response over a socket, with every wait and size bounded.

The grammar is llhttp's (through `httptools`), the parser of Node.js: in C, strict about what makes
two readers disagree (repeated Content-Length, odd chunks), and without opinion about sockets, so
that time and sizes are counted here, for all phases alike.
"""

import socket
import time
from collections.abc import Iterator

import httptools

from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.outcomes import FetchError, Outcome
from pipelines.crawl.http.tls import TlsSocket

_RECV = 65536
_HEAD_BYTES = 65536  # status line and headers, interim responses (1xx) included
# Chunk sizes, extensions and trailers beyond the body's own length.
_FRAMING_BYTES = 2 * _RECV
_RATE_AFTER_S = 3.0
# Setting a socket's timeout is a system call: it is left alone while it is nearly right.
_TIMEOUT_STEP_S = 0.1


def request_bytes(host: str, target: str, user_agent: str) -> bytes:
    """A GET request.

    Args:
        host: value of the Host header, with the port if it is not the usual one.
        target: path and query, percent-encoded.
        user_agent: value of the User-Agent header.

    Raises:
        FetchError: `invalid_url` if something in it could end a line.
    """
    for text in (host, target):
        if not text.isascii() or not text.isprintable() or " " in text:
            raise FetchError(Outcome.INVALID_URL, f"{text[:200]!r} is not percent-encoded")
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\n"
        "Accept: */*\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n"
    ).encode()


class _Events:
    """What the parser found so far."""

    def __init__(self) -> None:
        self.parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # As browsers do: lines that end in LF alone, and bytes after the body, which nobody reads.
        self.parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_data_after_close=True
        )
        self.headers: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []
        self.status = 0
        self.has_head = False
        self.complete = False
        self.stays_open = False

    def on_message_begin(self) -> None:
        """A response begins, perhaps an interim one; a second one was not asked for."""
        self.stays_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those after the body (trailers) are dropped."""
        if not self.has_head:
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = value.decode("latin-1")
            self.headers.append((name.decode("latin-1").lower(), text.strip()))

    def on_headers_complete(self) -> None:
        """The head ends; interim responses (RFC 9110, section 15.2) are passed over."""
        if self.parser is None or self.has_head:
            return
        self.status = self.parser.get_status_code()
        if 100 <= self.status < 200:
            self.headers.clear()
        else:
            self.has_head = True

    def on_body(self, data: bytes) -> None:
        """Bytes of the body, chunks undone."""
        if not self.complete:
            self.pieces.append(data)

    def on_message_complete(self) -> None:
        """The body ends; what comes after it is not read."""
        if self.parser is not None and self.has_head and not self.complete:
            self.complete = True
            self.stays_open = self.parser.should_keep_alive()


class NoAnswerError(FetchError):
    """The connection ended before anything came: a kept one may have been closed meanwhile."""

    def __init__(self, detail: str):
        super().__init__(Outcome.BAD_RESPONSE, detail)


class Exchange:
    """A request sent and its response read; use it as a context manager.

    At its end the socket is closed, unless `released`.

    Attributes:
        status: HTTP status.
        headers: (name in lower case, value) in their order.
    """

    def __init__(self, sock: socket.socket | TlsSocket, deadline: Deadline):
        self._sock = sock
        self._deadline = deadline
        self._events = _Events()
        self._timeout = 0.0
        self._received = 0
        self._is_released = False
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self._joined: dict[str, str] = {}

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_: object) -> None:
        self._events.parser = None  # a cycle of references would keep the body until a collection
        if not self._is_released:
            self._sock.close()

    def released(self) -> bool:
        """Leave the socket open if the response is whole and the server takes another request."""
        self._is_released = self._events.complete and self._events.stays_open
        return self._is_released

    def send(self, request: bytes) -> None:
        """Send the request and read the head of its response.

        Raises:
            NoAnswerError: if the connection ends, or breaks, before anything came.
            FetchError: `timeout`, or `bad_response` if the answer is no HTTP or the head too long.
            OSError: if the connection breaks.
        """
        self._limit(self._deadline.left())
        try:
            self._sock.sendall(request)
            while not self._events.has_head:
                self._receive_head()
        except ConnectionError as error:
            if self._received:
                raise
            raise NoAnswerError(f"{type(error).__name__}: {error}") from error
        self.status, self.headers = self._events.status, self._events.headers
        for name, value in self.headers:
            known = self._joined.get(name)
            self._joined[name] = value if known is None else f"{known}, {value}"

    def _receive_head(self) -> None:
        if not self._receive(self._deadline.left()):
            words = "closed before the headers ended"
            raise (
                FetchError(Outcome.BAD_RESPONSE, words) if self._received else NoAnswerError(words)
            )
        if self._received > _HEAD_BYTES and not self._events.has_head:
            raise FetchError(Outcome.BAD_RESPONSE, f"headers of over {_HEAD_BYTES} bytes")

    def header(self, name: str) -> str | None:
        """A header by its name in lower case, repeated ones joined by commas; None if absent."""
        return self._joined.get(name)

    def body(self, min_bytes_per_s: int) -> Iterator[bytes]:
        """The body in pieces of at most 64 KiB, as sent: content encodings are not undone.

        Raises:
            FetchError: `too_slow` if from its third second on it came slower than
                `min_bytes_per_s`, `timeout`, or `bad_response` if it ends early or its framing
                outweighs it.
            OSError: if the connection breaks.
        """
        transfer = self.header("transfer-encoding")
        if transfer is not None and transfer.lower() != "chunked":
            raise FetchError(Outcome.BAD_RESPONSE, f"Transfer-Encoding {transfer[:40]!r}")
        framed = transfer is not None or self.header("content-length") is not None
        begin, length = time.monotonic(), 0
        while True:
            pieces, self._events.pieces = self._events.pieces, []
            for piece in pieces:
                length += len(piece)
                yield piece
            if self._events.complete:
                return
            if self._received > 2 * length + _HEAD_BYTES + _FRAMING_BYTES:
                raise FetchError(Outcome.BAD_RESPONSE, "more framing than body")
            if not self._receive(self._patience(begin, length, min_bytes_per_s)):
                if framed:
                    raise FetchError(Outcome.BAD_RESPONSE, f"ends early, after {length} bytes")
                return

    def _patience(self, begin: float, length: int, rate: int) -> float:
        """Seconds to wait for more before the body counts as too slow."""
        left = self._deadline.left()
        if not rate:
            return left
        spare = max(_RATE_AFTER_S, length / rate) - (time.monotonic() - begin)
        if spare <= 0:
            words = f"{length} bytes of the body in {time.monotonic() - begin:.1f} s"
            raise FetchError(Outcome.TOO_SLOW, words)
        return min(left, spare)

    def _limit(self, seconds: float) -> None:
        if not seconds <= self._timeout <= seconds + _TIMEOUT_STEP_S:
            self._timeout = seconds
            self._sock.settimeout(seconds)

    def _receive(self, patience: float) -> int:
        """Feed the parser what comes; 0 at the end of the connection.

        A wait that is over raises nothing here: the caller's next look at its limits does.
        """
        self._limit(patience)
        try:
            data = self._sock.recv(_RECV)
        except TimeoutError:
            self._timeout = 0.0
            return -1
        self._received += len(data)
        parser = self._events.parser
        if data and parser is not None:
            try:
                parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                # What follows a complete response is not our business.
                self._events.stays_open = False
                if not self._events.complete:
                    raise FetchError(Outcome.BAD_RESPONSE, f"not HTTP: {error}"[:300]) from error
        return len(data)
