"""One hardened GET: what the whole crawl asks servers with.

Opt-out comes before the bytes: the takedown list and robots.txt before the request, the headers
before the body. A redirect's target passes all of these, and the check of its address, anew.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import SplitResult, urljoin, urlsplit

from pipelines.crawl.byte_budget import UNLIMITED, ByteBudget
from pipelines.crawl.config import HttpConfig
from pipelines.crawl.consent.opt_out import forbidden_by_headers
from pipelines.crawl.consent.robots import HostRules, RobotsFile
from pipelines.crawl.consent.takedown import Takedown
from pipelines.crawl.http.attempt import Try
from pipelines.crawl.http.body import Sniff, Wanted, read_body, sniff_image
from pipelines.crawl.http.connect import Connector, Target
from pipelines.crawl.http.deadline import Deadline, Patience
from pipelines.crawl.http.kept import KeptConnections, Socket
from pipelines.crawl.http.message import Exchange, NoAnswerError, request_bytes
from pipelines.crawl.http.outcomes import FetchError, Outcome, printable
from pipelines.crawl.http.politeness import AdaptiveLimit, Politeness
from pipelines.crawl.http.response import Response
from pipelines.identity import normalise_url

__all__ = ["HttpClient", "Response", "Sniff", "sniff_image"]

_REDIRECTS = (301, 302, 303, 307, 308)
_POLICY_BYTES = 512 * 1024  # RFC 9309, section 2.5: parse at least 500 KiB
_URL_CHARACTERS = 8192  # RFC 9110, section 4.1: at least 8000 should be supported
_KEPT_CHARACTERS = 1000  # of a header; they are stored with every row
_KEPT = 32  # connections between requests, where nobody says how many run at once
_FOR_WANT_OF_TIME = (Outcome.TIMEOUT, Outcome.DNS, Outcome.CONNECT)


class HttpClient:
    """GETs under one configuration; safe for threads, made once a worker, memory bounded."""

    def __init__(
        self, config: HttpConfig, takedown: Takedown | None = None, concurrency: int | None = None
    ):
        """Make the caches that all GETs share.

        Args:
            config: how to ask.
            takedown: what it lists is neither asked for nor kept.
            concurrency: exchanges at once at most, fewer while many get no connection; as many as
                there are threads if None.

        Raises:
            ValueError: if a file or address in `config` cannot be read.
        """
        self._config = config
        self._takedown = takedown
        self._connector = Connector(config)
        self._politeness = Politeness(config)
        self._limit = AdaptiveLimit(concurrency) if concurrency is not None else None
        self._rules = HostRules(config.agent)
        self._kept = KeptConnections(concurrency or _KEPT)

    def get(
        self, url: str, sniff: Sniff, wrong_type: Outcome, budget: ByteBudget = UNLIMITED
    ) -> Response:
        """Fetch `url`, following redirects and trying again where that makes sense; never raises.

        Args:
            url: absolute http(s) URL.
            sniff: gets the first bytes and the Content-Type; None refuses the body.
            wrong_type: the outcome of such a refusal.
            budget: the body waits until its bytes fit; those of the returned one stay taken, and
                the caller gives them back. One of unknown length counts as the longest possible
                until it is there.
        """
        config = self._config
        wanted = Wanted(sniff, wrong_type, config.max_bytes, config.min_bytes_per_s)
        patience = Patience(config.max_wait_s, config.deadline_s)
        this, attempts = Try(url, wanted, self._deadline(), patience, True, budget), 0
        response = self._run(this)
        while response.was_asked:
            attempts += 1
            if this.refused or not response.outcome.retryable or attempts > config.retries:
                break
            this = Try(url, wanted, self._deadline(), patience, True, budget)
            again = self._run(this)
            if not again.was_asked:  # what the server said tells more than our own refusal
                break
            response = again
        return replace(response, attempts=attempts, ended_at=datetime.now(UTC))

    def _policy_file(self, of: Try, address: str) -> RobotsFile:
        """A robots.txt or tdmrep.json, by the same path but without opt-out.

        It takes the time that `of` has left, of its own and for rules, one deadline at most.

        Raises:
            FetchError: `throttled`, if our own politeness does not let us ask now, or how it ended
                for want of time, if it had less than a deadline: that says nothing about the host
                which could be remembered.
        """
        rate = self._config.min_bytes_per_s
        wanted = Wanted(lambda *_: "text", Outcome.NOT_A_PAGE, _POLICY_BYTES, rate, cut=True)
        seconds = min(of.deadline.left() + of.patience.rules_s, self._config.deadline_s)
        this = Try(address, wanted, Deadline(seconds), of.patience, False, UNLIMITED)
        started = time.monotonic()
        got = self._run(this)
        took = time.monotonic() - started - this.waited_s
        of.deadline.extend(this.waited_s + of.patience.wait_for_rules(took))
        throttled = got.outcome is Outcome.THROTTLED and got.status not in (429, 503)
        cut_short = seconds < self._config.deadline_s and got.outcome in _FOR_WANT_OF_TIME
        if throttled or cut_short:
            raise FetchError(got.outcome, f"{address}: {got.detail}")
        if got.status is None or got.status == 429 or (got.status < 400 and got.body is None):
            return RobotsFile(None, f"{got.outcome}: {got.detail}", got.outcome)
        return RobotsFile(got.status, (got.body or b"").decode("utf-8", errors="replace"))

    def _deadline(self) -> Deadline:
        return Deadline(self._config.deadline_s)

    def _run(self, this: Try) -> Response:
        outcome, detail, mime, body = Outcome.OK, None, None, None
        try:
            body, mime = self._follow(this)
        except FetchError as error:
            outcome, detail = error.outcome, error.detail
        except TimeoutError as error:
            outcome, detail = Outcome.TIMEOUT, str(error)
        except OSError as error:
            outcome, detail = Outcome.BAD_RESPONSE, f"{type(error).__name__}: {error}"[:300]
        detail = printable(detail) if detail else None
        response = Response(
            this.url, outcome, detail, this.status, this.content_type, mime, body, this.opt_out
        )
        if self._limit is not None and response.was_asked and not this.refused:
            self._limit.ended(outcome)
        return response

    def _follow(self, this: Try) -> tuple[bytes, str]:
        """The body and its type, redirects followed."""
        was_secure = False
        for _ in range(self._config.max_redirects + 1):
            parts = _parsed(this.url)
            this.url = parts.geturl()
            if was_secure and parts.scheme != "https":
                words = f"redirects from https to {this.url[:200]}"
                raise FetchError(Outcome.UNSAFE_ADDRESS, words)
            was_secure = parts.scheme == "https"
            if self._takedown is not None and this.guarded:
                this.refuse_if(self._takedown.forbids_url(this.url))
            target = self._connector.find(parts, this.deadline)
            if this.guarded:
                self._ask_rules(this)
            got = self._exchange(this, parts, target)
            if not isinstance(got, str):
                return got
            this.url = got
        words = f"more than {self._config.max_redirects} redirects"
        raise FetchError(Outcome.TOO_MANY_REDIRECTS, words)

    def _ask_rules(self, this: Try) -> None:
        """Refuse what the host's rules forbid; waiting for a thread that reads them is a wait."""
        started, asked_s = time.monotonic(), 0.0

        def fetch(address: str) -> RobotsFile:
            nonlocal asked_s
            begin = time.monotonic()
            try:
                return self._policy_file(this, address)
            finally:
                asked_s += time.monotonic() - begin

        patience = this.patience
        most = this.deadline.left() + patience.rules_s + patience.wait_s
        try:
            this.refuse_if(self._rules.forbids(this.url, fetch, most))
        finally:
            waited = time.monotonic() - started - asked_s
            moved = patience.wait(waited)
            this.deadline.extend(moved + patience.wait_for_rules(waited - moved))

    @contextlib.contextmanager
    def _turn(self, this: Try, host: str) -> Iterator[None]:
        """Hold a turn at `host`; waiting for it moves the deadline."""
        arrived = time.monotonic()
        with contextlib.ExitStack() as held:
            most = this.patience.wait_s
            try:
                held.enter_context(self._politeness.slot(host, most))
                if self._limit is not None:
                    left = max(0.0, most - (time.monotonic() - arrived))
                    held.enter_context(self._limit.slot(left))
            finally:
                this.patience.wait(time.monotonic() - arrived)
            waited = time.monotonic() - arrived
            this.waited_s += waited
            this.deadline.extend(waited)
            yield

    def _exchange(self, this: Try, url: SplitResult, target: Target) -> str | tuple[bytes, str]:
        """The body and its type, or the address that the server redirects to."""
        with self._turn(this, target.host):
            sock = self._kept.take(target)
            if sock is not None:
                # The server may close it just now, unasked: RFC 9112, section 9.3.1.
                with contextlib.suppress(NoAnswerError):
                    return self._ask(this, url, target, sock)
            return self._ask(this, url, target, None)

    def _ask(
        self, this: Try, url: SplitResult, target: Target, sock: Socket | None
    ) -> str | tuple[bytes, str]:
        """As `_exchange`, over `sock` or a new connection, which is kept if both sides may."""
        status, retry_after = None, None
        try:
            sock = sock or self._connector.open(target, this.deadline)
            with Exchange(sock, this.deadline) as exchange:
                path = url.path + (f"?{url.query}" if url.query else "")
                exchange.send(request_bytes(url.netloc, path, self._config.user_agent))
                this.status = status = exchange.status
                retry_after = exchange.header("retry-after")
                try:
                    return self._answer(this, exchange)
                finally:
                    if exchange.released():
                        self._kept.put(target, sock)
        finally:
            self._politeness.answered(target.host, status, retry_after)

    def _answer(self, this: Try, exchange: Exchange) -> str | tuple[bytes, str]:
        this.content_type = (exchange.header("content-type") or "")[:_KEPT_CHARACTERS]
        if this.guarded:
            this.refuse_if(forbidden_by_headers(exchange.headers, self._config.agent))
        location = exchange.header("location")
        if exchange.status in _REDIRECTS and location:
            return _joined(this.url, location)
        outcome = Outcome.of_status(exchange.status)
        if exchange.status == 206:  # a part, which was not asked for
            outcome = Outcome.BAD_RESPONSE
        if outcome is not Outcome.OK:
            raise FetchError(outcome, f"HTTP status {exchange.status}")
        size, kept = _announced(exchange, this.wanted), 0
        arrived = time.monotonic()
        taken = this.budget.take(size, this.patience.wait_s)
        waited = time.monotonic() - arrived
        this.patience.wait(waited)
        this.deadline.extend(waited)
        if not taken:
            words = f"no room for {size} bytes beside those that wait to be recorded"
            raise FetchError(Outcome.THROTTLED, words)
        try:
            body, mime = read_body(exchange, this.wanted)
            if self._takedown is not None and this.guarded:
                this.refuse_if(self._takedown.forbids_sha256(hashlib.sha256(body).digest()))
            kept = len(body)
        finally:
            this.budget.give(size - kept)
        return body, mime


def _announced(exchange: Exchange, wanted: Wanted) -> int:
    """The most bytes that a body may have."""
    declared = exchange.header("content-length") or ""
    if not declared.isdecimal() or exchange.header("content-encoding") is not None:
        return wanted.max_bytes
    return min(int(declared), wanted.max_bytes)


def _parsed(url: str) -> SplitResult:
    """The parts of a URL's one spelling, which are safe to send."""
    try:
        if len(url) > _URL_CHARACTERS:
            raise ValueError(f"longer than {_URL_CHARACTERS} characters: {url[:100]!r}")
        return urlsplit(normalise_url(url))
    except ValueError as error:
        raise FetchError(Outcome.INVALID_URL, str(error)) from error


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError(Outcome.INVALID_URL, f"redirect to {location[:200]!r}: {error}") from error
