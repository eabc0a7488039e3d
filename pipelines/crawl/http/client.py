"""One hardened GET: what the whole crawl asks servers with.

Opt-out comes before the bytes: the takedown list and robots.txt before the request, the headers
before the body. A redirect's target passes all of these, and the check of its address, anew.
"""

import contextlib
import hashlib
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import SplitResult, urljoin, urlsplit

from pipelines.crawl.byte_budget import UNLIMITED, ByteBudget
from pipelines.crawl.config import HttpConfig
from pipelines.crawl.consent.opt_out import OptOut, forbidden_by_headers
from pipelines.crawl.consent.robots import HostRules, RobotsFile, Unreachable
from pipelines.crawl.consent.takedown import Takedown
from pipelines.crawl.http.body import Sniff, Wanted, read_body, sniff_image
from pipelines.crawl.http.connect import Connector, Target
from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.message import Exchange, request_bytes
from pipelines.crawl.http.outcomes import FetchError, Outcome
from pipelines.crawl.http.politeness import AdaptiveLimit, Politeness
from pipelines.crawl.http.response import Response
from pipelines.identity import normalise_url

__all__ = ["HttpClient", "Response", "Sniff", "sniff_image"]

_REDIRECTS = (301, 302, 303, 307, 308)
_POLICY_BYTES = 512 * 1024  # RFC 9309, section 2.5: parse at least 500 KiB
_URL_CHARACTERS = 8192  # RFC 9110, section 4.1: at least 8000 should be supported
_KEPT_CHARACTERS = 1000  # of a header; they are stored with every row
_OF_THE_HOST = (Outcome.DNS, Outcome.CONNECT, Outcome.TLS)


@dataclass
class _Try:
    """One exchange as far as it went.

    Attributes:
        url: where it is: redirects move it.
        wanted: the body wanted.
        deadline: of the whole exchange.
        rules_s: by how much waiting for robots.txt may still move the deadline. A chain of
            redirects over hosts with slow ones must not hold a thread for as long as it likes.
        guarded: whether signals of opt-out end it; they do not apply to the files that hold them.
        budget: where the body's bytes are taken from.
        refused: whether something remembered ended it, so that another try would end alike.
    """

    url: str
    wanted: Wanted
    deadline: Deadline
    rules_s: float
    guarded: bool
    budget: ByteBudget
    refused: bool = field(default=False, init=False)
    status: int | None = field(default=None, init=False)
    content_type: str = field(default="", init=False)
    opt_out: OptOut | None = field(default=None, init=False)

    def refuse_if(self, signal: OptOut | Unreachable | None) -> None:
        """End here if there is a signal.

        Raises:
            FetchError: `opted_out`; where robots.txt could not be had, `robots_unreachable`, or the
                reason if that concerns the whole host.
        """
        if signal is None:
            return
        self.refused = True
        text = signal.text[:_KEPT_CHARACTERS]
        outcome = Outcome.OPTED_OUT
        if isinstance(signal, Unreachable):
            outcome = Outcome.ROBOTS_UNREACHABLE
            if signal.reason in _OF_THE_HOST:
                outcome = signal.reason
        if outcome not in _OF_THE_HOST:
            self.opt_out = OptOut(signal.signal, text)
        raise FetchError(outcome, f"{signal.signal}: {text}")


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
        self._rules = HostRules(config.agent, self._policy_file)

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
        this, attempts = self._begin(url, wanted, budget, guarded=True), 0
        response = self._run(this)
        while response.was_asked:
            attempts += 1
            if this.refused or not response.outcome.retryable or attempts > config.retries:
                break
            this = self._begin(url, wanted, budget, guarded=True)
            again = self._run(this)
            if not again.was_asked:  # what the server said tells more than our own refusal
                break
            response = again
        return replace(response, attempts=attempts, ended_at=datetime.now(UTC))

    def _policy_file(self, address: str) -> RobotsFile:
        """A robots.txt or tdmrep.json, by the same path but without opt-out.

        Raises:
            FetchError: `throttled`, if our own politeness does not let us ask now: that says
                nothing about the host which could be remembered.
        """
        rate = self._config.min_bytes_per_s
        wanted = Wanted(lambda *_: "text", Outcome.NOT_A_PAGE, _POLICY_BYTES, rate, cut=True)
        got = self._run(self._begin(address, wanted, UNLIMITED, guarded=False))
        if got.outcome is Outcome.THROTTLED and got.status is None:
            raise FetchError(got.outcome, got.detail or "")
        if got.status is None or got.status == 429 or (got.status < 400 and got.body is None):
            return RobotsFile(None, f"{got.outcome}: {got.detail}", got.outcome)
        return RobotsFile(got.status, (got.body or b"").decode("utf-8", errors="replace"))

    def _begin(self, url: str, wanted: Wanted, budget: ByteBudget, *, guarded: bool) -> _Try:
        seconds = self._config.deadline_s
        return _Try(url, wanted, Deadline(seconds), seconds, guarded, budget)

    def _run(self, this: _Try) -> Response:
        outcome, detail, mime, body = Outcome.OK, None, None, None
        try:
            body, mime = self._follow(this)
        except FetchError as error:
            outcome, detail = error.outcome, error.detail
        except TimeoutError as error:
            outcome, detail = Outcome.TIMEOUT, str(error)
        except OSError as error:
            outcome, detail = Outcome.BAD_RESPONSE, f"{type(error).__name__}: {error}"[:300]
        response = Response(
            this.url, outcome, detail, this.status, this.content_type, mime, body, this.opt_out
        )
        if self._limit is not None and response.was_asked and not this.refused:
            self._limit.ended(outcome)
        return response

    def _follow(self, this: _Try) -> tuple[bytes, str]:
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

    def _ask_rules(self, this: _Try) -> None:
        started = time.monotonic()
        this.refuse_if(self._rules.forbids(this.url))
        waited = min(time.monotonic() - started, this.rules_s)
        this.rules_s -= waited
        this.deadline.extend(waited)

    def _exchange(self, this: _Try, url: SplitResult, target: Target) -> str | tuple[bytes, str]:
        """The body and its type, or the address that the server redirects to."""
        arrived = time.monotonic()
        status, retry_after = None, None
        with self._politeness.slot(target.host), self._limit or contextlib.nullcontext():
            this.deadline.extend(time.monotonic() - arrived)
            try:
                sock = self._connector.open(target, this.deadline)
                with Exchange(sock, this.deadline) as exchange:
                    path = url.path + (f"?{url.query}" if url.query else "")
                    exchange.send(request_bytes(url.netloc, path, self._config.user_agent))
                    this.status = status = exchange.status
                    retry_after = exchange.header("retry-after")
                    return self._answer(this, exchange)
            finally:
                self._politeness.answered(target.host, status, retry_after)

    def _answer(self, this: _Try, exchange: Exchange) -> str | tuple[bytes, str]:
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
        this.budget.take(size)
        this.deadline.extend(time.monotonic() - arrived)
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
