"""Waiting: how often and how widely one site is asked, and how much is asked at once overall."""

import contextlib
import functools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import tldextract

from pipelines.crawl.config import HttpConfig
from pipelines.crawl.http.outcomes import FetchError, Outcome

_MAX_DOMAINS = 20_000
_MAX_RETRY_AFTER_S = 3600.0
_FIRST_BACK_OFF_S = 1.0
_MAX_BACK_OFF_S = 300.0

# The copy of the Public Suffix List inside the package: nothing is fetched or written to disk.
_SUFFIXES = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())


@functools.lru_cache(maxsize=65_536)
def registrable_domain(host: str) -> str:
    """`example.co.uk` for `img.example.co.uk`; an IP address or a local name is its own domain."""
    host = host.strip("[]").rstrip(".").lower()
    return _SUFFIXES(host).top_domain_under_public_suffix or host


def retry_after_s(text: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), an hour at most.

    None if there is none, or if it is neither a number of seconds nor a date.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdecimal():
        return _MAX_RETRY_AFTER_S if len(text) > 6 else min(float(text), _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


class _Domain:
    """State of one registrable domain; times are of `time.monotonic`."""

    __slots__ = ("active", "back_off_s", "connections", "delay_s", "next_start", "quiet_until",
                 "waiting")  # fmt: skip

    def __init__(self, connections: int, delay_s: float):
        self.connections = connections
        self.delay_s = delay_s
        self.active = 0
        self.waiting: list[threading.Condition] = []  # short; an empty deque takes 10 times more
        self.next_start = 0.0
        self.quiet_until = 0.0
        self.back_off_s = 0.0

    def turn(self, place: int, now: float) -> float:
        """When the request at a place in the queue may start at the earliest."""
        return max(self.next_start, self.quiet_until, now) + place * self.delay_s

    def is_idle(self, now: float) -> bool:
        """Whether nothing is lost when it is forgotten."""
        return not self.active and not self.waiting and self.turn(0, now) <= now


class Politeness:
    """Turns at registrable domains, first come first served; safe for threads, has none itself.

    A domain is asked over at most `domain_connections` connections, `domain_delay_s` apart; each
    of `processes` workers takes its share of both (one connection at least).
    """

    def __init__(self, config: HttpConfig):
        """Follow the domain limits of `config`."""
        self._config = config
        self._limits = {registrable_domain(each.domain): each for each in config.domain_limits}
        self._lock = threading.Lock()
        self._domains: OrderedDict[str, _Domain] = OrderedDict()

    @contextlib.contextmanager
    def slot(self, host: str, wait_s: float | None = None) -> Iterator[float]:
        """Hold one connection to `host`'s domain; gives the seconds that were waited for it.

        Args:
            host: name or IP address.
            wait_s: longest wait; `max_wait_s` of the configuration if None.

        Raises:
            FetchError: THROTTLED, if the turn would come later than that; at once if that is
                known at once.
        """
        patience_s = self._config.max_wait_s if wait_s is None else wait_s
        name = registrable_domain(host)
        arrived = time.monotonic()
        with self._lock:
            domain = self._domain(name, arrived)
            self._wait_for_turn(name, domain, arrived + patience_s)
            now = time.monotonic()
            domain.active += 1
            domain.next_start = now + domain.delay_s
        try:
            yield now - arrived
        finally:
            with self._lock:
                domain.active -= 1
                _wake_first(domain)

    def answered(self, host: str, status: int | None, retry_after: str | None) -> None:
        """Report a response of `host`, None if there was none, and its Retry-After header.

        After 429 and 503 the domain is left alone: as long as it asks for, at least a second;
        otherwise 1 s, and twice as long each further time up to 5 min.
        """
        now = time.monotonic()
        with self._lock:
            domain = self._domain(registrable_domain(host), now)
            if status in (429, 503):
                # Answers to requests that were under way together are one complaint.
                if domain.quiet_until <= now:
                    doubled = max(2 * domain.back_off_s, _FIRST_BACK_OFF_S)
                    domain.back_off_s = min(doubled, _MAX_BACK_OFF_S)
                asked = retry_after_s(retry_after)
                pause = domain.back_off_s if asked is None else max(asked, _FIRST_BACK_OFF_S)
                domain.quiet_until = max(domain.quiet_until, now + pause)
                for waiting in domain.waiting:
                    waiting.notify()
            elif status is not None and status < 500 and domain.quiet_until <= now:
                domain.back_off_s = 0.0

    def _domain(self, name: str, now: float) -> _Domain:
        domain = self._domains.get(name)
        if domain is None:
            if len(self._domains) >= _MAX_DOMAINS:
                self._forget_idle(now)
            limit = self._limits.get(name)
            connections = limit.connections if limit else self._config.domain_connections
            delay_s = limit.delay_s if limit else self._config.domain_delay_s
            workers = self._config.processes
            domain = _Domain(max(1, connections // workers), delay_s * workers)
            self._domains[name] = domain
        self._domains.move_to_end(name)
        return domain

    def _forget_idle(self, now: float) -> None:
        """Drop the two least recently used domains; a busy one gets another round instead."""
        for _ in range(2):
            name, domain = next(iter(self._domains.items()))
            if domain.is_idle(now):
                del self._domains[name]
            else:
                self._domains.move_to_end(name)

    def _wait_for_turn(self, name: str, domain: _Domain, latest: float) -> None:
        """Queue until it is this thread's turn; the lock is held, except while waiting."""
        ticket = threading.Condition(self._lock)
        domain.waiting.append(ticket)
        try:
            while True:
                now = time.monotonic()
                place = domain.waiting.index(ticket)
                turn = domain.turn(place, now)
                is_next = place == 0 and domain.active < domain.connections
                if is_next and turn <= now:
                    return
                if turn > latest or now >= latest:
                    raise FetchError(Outcome.THROTTLED, _refusal(name, domain, turn, now))
                ticket.wait((turn if is_next else latest) - now)
        finally:
            domain.waiting.remove(ticket)
            _wake_first(domain)


def _wake_first(domain: _Domain) -> None:
    if domain.waiting:
        domain.waiting[0].notify()


def _refusal(name: str, domain: _Domain, turn: float, now: float) -> str:
    if domain.quiet_until > now:
        return f"{name} asks to be left alone for {domain.quiet_until - now:.0f} s"
    if turn > now:
        return f"{name} has so many requests waiting that this one's turn is in {turn - now:.0f} s"
    return f"{name} keeps its {domain.connections} connections busy for too long"


class AdaptiveLimit:
    """How many exchanges run at once: fewer while many fail on the way to the server.

    Safe for threads, which enter in their order.
    """

    _WINDOW = 32
    _ON_THE_WAY = frozenset({Outcome.TIMEOUT, Outcome.CONNECT, Outcome.DNS})

    def __init__(self, most: int):
        """Allow `most` exchanges at once, and never fewer than an eighth of them, or one."""
        self._most = most
        self._least = max(1, most // 8)
        self._limit = float(most)
        self._active = 0
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._failures: deque[bool] = deque(maxlen=self._WINDOW)

    @property
    def limit(self) -> int:
        """Exchanges that may run at once at present."""
        return int(self._limit)

    def ended(self, outcome: Outcome) -> None:
        """Report how an exchange ended.

        If half of the latest 32 got no connection in time, the limit is halved; each that got one
        adds its part of one to it.
        """
        failed = outcome in self._ON_THE_WAY
        with self._lock:
            self._failures.append(failed)
            if 2 * sum(self._failures) >= self._WINDOW:
                self._limit = max(float(self._least), self._limit / 2)
                self._failures.clear()
            elif not failed:
                self._limit = min(float(self._most), self._limit + 1 / self._limit)
                self._let_in()

    @contextlib.contextmanager
    def slot(self, wait_s: float | None = None) -> Iterator[None]:
        """Run one exchange.

        Raises:
            FetchError: THROTTLED, if none of the others ends within `wait_s`.
        """
        self._enter(wait_s)
        try:
            yield
        finally:
            with self._lock:
                self._leave()

    def _enter(self, wait_s: float | None) -> None:
        ticket = threading.Event()
        with self._lock:
            self._waiting.append(ticket)
            self._let_in()
        try:
            if not ticket.wait(wait_s):
                words = f"{self.limit} exchanges run, as many as may at present"
                raise FetchError(Outcome.THROTTLED, words)
        except BaseException:
            with self._lock:
                if ticket.is_set():
                    self._leave()
                else:
                    self._waiting.remove(ticket)
            raise

    def _leave(self) -> None:
        self._active -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._active < int(self._limit):
            self._active += 1
            self._waiting.popleft().set()
