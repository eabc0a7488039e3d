"""One hardened GET: what the whole crawl asks servers with.

Opt-out comes before the bytes: robots.txt before the request, X-Robots-Tag before the body.
"""

import http.client
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from pipelines.crawl.config import HttpConfig
from pipelines.crawl.http_connect import Deadline, connection_to
from pipelines.crawl.opt_out import OptOut, Robots, RobotsFile, x_robots_tag
from pipelines.crawl.outcomes import FetchError, Outcome
from pipelines.identity import normalise_url

_REDIRECTS = (301, 302, 303, 307, 308)
_BEFORE_REQUEST = (Outcome.OPTED_OUT, Outcome.ROBOTS_UNREACHABLE, Outcome.INVALID_URL)
_CHUNK = 65536
_HEAD = 32
_ROBOTS_BYTES = 512 * 1024  # RFC 9309, section 2.5: parse at least 500 KiB

Sniff = Callable[[bytes, str], str | None]


@dataclass(frozen=True)
class Response:
    """How a request ended.

    Attributes:
        url: the address that answered, after redirects.
        outcome: `ok`, or why there is no body.
        detail: the error's own words.
        status: HTTP status of the last response.
        content_type: its Content-Type header.
        mime: type found in the first bytes.
        body: decoded bytes, if `ok`.
        opt_out: the signal that forbids the use.
        attempts: requests made for this URL, redirects apart.
        ended_at: when the exchange ended.
    """

    url: str
    outcome: Outcome
    detail: str | None = None
    status: int | None = None
    content_type: str = ""
    mime: str | None = None
    body: bytes | None = None
    opt_out: OptOut | None = None
    attempts: int = 1
    ended_at: datetime = datetime.min


class _Redirect(NamedTuple):
    status: int
    target: str


def sniff_image(head: bytes, _content_type: str = "") -> str | None:
    """MIME type of a JPEG, PNG, GIF or WebP, by its first 12 bytes; None for all else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


class HttpClient:
    """GETs under one configuration; safe for threads, made once a worker."""

    def __init__(self, config: HttpConfig):
        self._config = config
        self._robots = Robots(config.agent, self._robots_file)
        self._lock = threading.Lock()
        self._next_slot: dict[str, float] = {}

    def get(self, url: str, sniff: Sniff, wrong_type: Outcome) -> Response:
        """Fetch `url`, following redirects and trying again where that makes sense; never raises.

        Args:
            url: absolute http(s) URL.
            sniff: gets the first bytes and the Content-Type; None refuses the body.
            wrong_type: the outcome of such a refusal.
        """
        attempts = 0
        while attempts <= self._config.retries:
            attempts += 1
            response = self._try(url, sniff, wrong_type, self._config.max_bytes, robots=True)
            if not response.outcome.retryable:
                break
        if response.outcome in _BEFORE_REQUEST and response.status is None:
            attempts = 0
        return replace(response, attempts=attempts, ended_at=datetime.now(UTC))

    def _robots_file(self, address: str) -> RobotsFile:
        got = self._try(address, lambda *_: "text", Outcome.NOT_A_PAGE, _ROBOTS_BYTES, robots=False)
        if got.status is None or got.status == 429 or (got.status < 300 and got.body is None):
            return RobotsFile(None, f"{got.outcome}: {got.detail}")
        return RobotsFile(got.status, (got.body or b"").decode("utf-8", errors="replace"))

    def _try(
        self, url: str, sniff: Sniff, wrong_type: Outcome, max_bytes: int, *, robots: bool
    ) -> Response:
        deadline = Deadline(self._config.deadline_s)
        state = Response(url, Outcome.OK)
        try:
            for _ in range(self._config.max_redirects + 1):
                url = normalise_url(url)
                forbidden = self._robots.forbids(url) if robots else None
                if forbidden:
                    return _opted_out(replace(state, url=url), forbidden)
                got = self._exchange(url, sniff, wrong_type, max_bytes, deadline, robots=robots)
                if isinstance(got, Response):
                    return got
                if url.startswith("https:") and not got.target.startswith("https:"):
                    words = f"{url} redirects to {got.target}"
                    return replace(state, outcome=Outcome.UNSAFE_ADDRESS, detail=words)
                state = replace(state, url=url, status=got.status)
                url = got.target
            words = f"more than {self._config.max_redirects} redirects"
            return replace(state, outcome=Outcome.TOO_MANY_REDIRECTS, detail=words)
        except FetchError as error:
            return replace(state, url=url, outcome=error.outcome, detail=error.detail)
        except TimeoutError as error:
            return replace(state, url=url, outcome=Outcome.TIMEOUT, detail=str(error))
        except ValueError as error:
            return replace(state, url=url, outcome=Outcome.INVALID_URL, detail=str(error))
        except (OSError, http.client.HTTPException, zlib.error) as error:
            words = f"{type(error).__name__}: {error}"
            return replace(state, url=url, outcome=Outcome.BAD_RESPONSE, detail=words[:300])

    def _exchange(
        self,
        url: str,
        sniff: Sniff,
        wrong_type: Outcome,
        max_bytes: int,
        deadline: Deadline,
        *,
        robots: bool,
    ) -> "Response | _Redirect":
        parts = urlsplit(url)
        self._wait_for_slot(parts.netloc, deadline)
        with connection_to(parts, self._config.allow_networks, deadline) as connection:
            _request(connection, parts, self._config.user_agent)
            answer = connection.getresponse()
            location = answer.getheader("Location")
            if answer.status in _REDIRECTS and location:
                return _Redirect(answer.status, urljoin(url, location))
            kind = answer.getheader("Content-Type", "")
            outcome = Outcome.of_status(answer.status)
            state = Response(url, outcome, status=answer.status, content_type=kind)
            if outcome is not Outcome.OK:
                return replace(state, detail=f"HTTP status {answer.status}")
            tags = answer.msg.get_all("X-Robots-Tag", []) if robots else []
            forbidden = x_robots_tag(tags, self._config.agent)
            if forbidden:
                return _opted_out(state, forbidden)
            return _read_body(answer, state, sniff, wrong_type, max_bytes)

    def _wait_for_slot(self, host: str, deadline: Deadline) -> None:
        """Keep `domain_delay_s` between the requests to one host; waiting spares the deadline."""
        delay = self._config.domain_delay_s
        if not delay:
            return
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._next_slot.get(host, 0.0))
            self._next_slot[host] = slot + delay
        time.sleep(slot - now)
        deadline.extend(slot - now)


def _opted_out(state: Response, signal: OptOut) -> Response:
    unreachable = signal.signal == "robots_unreachable"
    outcome = Outcome.ROBOTS_UNREACHABLE if unreachable else Outcome.OPTED_OUT
    return replace(state, outcome=outcome, opt_out=signal, detail=f"{signal.signal}: {signal.text}")


def _request(connection: http.client.HTTPConnection, url: SplitResult, user_agent: str) -> None:
    target = url.path + (f"?{url.query}" if url.query else "")
    connection.putrequest("GET", target, skip_accept_encoding=True)
    connection.putheader("User-Agent", user_agent)
    connection.putheader("Accept", "*/*")
    connection.putheader("Accept-Encoding", "gzip")
    connection.putheader("Connection", "close")
    connection.endheaders()


def _read_body(
    answer: http.client.HTTPResponse,
    state: Response,
    sniff: Sniff,
    wrong_type: Outcome,
    max_bytes: int,
) -> Response:
    declared = answer.getheader("Content-Length", "")
    body = bytearray()
    mime: str | None = None
    for piece in _decoded(answer):
        body += piece
        if mime is None and len(body) >= _HEAD:
            mime = sniff(bytes(body[:_HEAD]), state.content_type)
            if mime is None:
                return _refused(state, wrong_type, body)
        if len(body) > max_bytes or (declared.isdecimal() and int(declared) > max_bytes):
            detail = f"more than {max_bytes} bytes, Content-Length {declared or 'unknown'}"
            return replace(state, outcome=Outcome.TOO_LARGE, mime=mime, detail=detail)
    if mime is None:
        mime = sniff(bytes(body), state.content_type)
    if mime is None or not body:
        return _refused(state, wrong_type, body)
    return replace(state, mime=mime, body=bytes(body))


def _refused(state: Response, outcome: Outcome, body: bytearray) -> Response:
    detail = f"Content-Type {state.content_type!r}, first bytes {bytes(body[:12])!r}"
    return replace(state, outcome=outcome, detail=detail)


def _decoded(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body in pieces of bounded size, its content encoding undone.

    Raises:
        FetchError: if the encoding is unknown, or the body ends early.
    """
    encoding = answer.getheader("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        while piece := answer.read1(_CHUNK):
            yield piece
    elif encoding in ("gzip", "x-gzip", "deflate"):
        inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
        while piece := answer.read1(_CHUNK):
            while piece:
                yield inflate.decompress(piece, _CHUNK)
                piece = inflate.unconsumed_tail
    else:
        raise FetchError(Outcome.BAD_RESPONSE, f"Content-Encoding {encoding[:40]!r} was not asked")
    if answer.length:
        raise FetchError(Outcome.BAD_RESPONSE, f"{answer.length} bytes are missing at the end")
