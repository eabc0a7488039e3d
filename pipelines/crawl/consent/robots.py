"""What whole hosts forbid: their robots.txt and /.well-known/tdmrep.json, fetched once a day."""

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from pipelines.crawl.consent.opt_out import OptOut
from pipelines.crawl.consent.robots_rules import (
    Pattern,
    RobotsRules,
    read_robots,
    read_tdmrep,
    spelled,
)
from pipelines.crawl.http.outcomes import Outcome

_TDMREP = "/.well-known/tdmrep.json"
_DAY_S = 24 * 3600.0  # RFC 9309, section 2.4
# Soon enough for a crawl that is resumed, seldom enough for a server that is down.
_UNREACHABLE_S = 300.0
_MAX_HOSTS = 50_000
_MAX_WEIGHT = 64_000_000  # bytes of all rules together
_RULE_WEIGHT = 150  # bytes of a rule besides its texts, about
_DEFAULT_PORTS = {"http": 80, "https": 443}


class RobotsFile(NamedTuple):
    """A file as fetched: its status (None if the host gave no answer) and text or error.

    `failure` says how the request ended that got no answer.
    """

    status: int | None
    text: str
    failure: Outcome | None = None


Fetch = Callable[[str], RobotsFile]


class Unreachable(NamedTuple):
    """As `OptOut`, where nobody knows the rules; `reason` is how the request for them ended."""

    signal: str
    text: str
    reason: Outcome | None


class _Answer(NamedTuple):
    """What a host said.

    Attributes:
        unreachable: that its robots.txt is not known, and why.
        robots: its rules for us.
        tdmrep: its reservations.
        expires: when to ask again, on the cache's clock.
    """

    unreachable: Unreachable | None
    robots: RobotsRules
    tdmrep: tuple[tuple[Pattern, bool], ...]
    expires: float

    @property
    def weight(self) -> int:
        """Memory that its rules take, in bytes, about."""
        rules = [_weight(rule[0]) for rule in (*self.robots.access, *self.tdmrep)]
        rules += [
            _weight(pattern) + sys.getsizeof(preference)
            for pattern, preference, _ in self.robots.usage
        ]
        return sum(rules)


def _weight(pattern: Pattern) -> int:
    """Bytes of a rule. A text between two stars may be short, but as an object it is 50 long."""
    # Python keeps one object for each text of a character, and a text without stars is one piece.
    own = [each for each in pattern.pieces if len(each) > 1 and each is not pattern.text]
    texts = sum(map(sys.getsizeof, (pattern.text, pattern.pieces, *own)))
    return _RULE_WEIGHT + texts


class _Host:
    """The place of an answer; the lock lets one thread ask."""

    __slots__ = ("answer", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answer: _Answer | None = None


class HostRules:
    """What hosts forbid to one agent; safe for threads.

    Threads that need the same host wait for one fetch. The least recently used hosts are
    forgotten when there are too many.
    """

    def __init__(
        self,
        agent: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Ask as `agent`.

        Args:
            agent: our product token.
            clock: seconds that never go back.
        """
        self._agent = agent
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._weight = 0

    def forbids(
        self, url: str, fetch: Fetch, patience_s: float = threading.TIMEOUT_MAX
    ) -> OptOut | Unreachable | None:
        """The rule that forbids to fetch and use `url` (absolute, http or https), or None.

        The signals are `robots_unreachable` (an `Unreachable`), `robots_txt`, `content_usage` and
        `tdmrep`. A `tdm-reservation: 0` header would outweigh tdmrep.json, but to see it one would
        have to ask for what the host reserved.

        Args:
            url: its one spelling.
            fetch: gets the file at an address, redirects followed; without opt-out checks.
            patience_s: longest wait for another thread that fetches.

        Raises:
            TimeoutError: if that wait was too short.
            Exception: what `fetch` raises, if it does; the next call asks again.
        """
        parts = urlsplit(url)
        origin = _origin(parts)
        answer = self._answer(origin, fetch, patience_s)
        if answer.unreachable is not None:
            return answer.unreachable
        target = spelled((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        if pattern := answer.robots.disallowing(target):
            return OptOut("robots_txt", f"{origin}/robots.txt: Disallow: {pattern.text}")
        if preference := answer.robots.refusing(target):
            return OptOut("content_usage", f"{origin}/robots.txt: Content-Usage: {preference}")
        for location, reserved in answer.tdmrep:
            if location.matches(target):
                words = f"{origin}{_TDMREP}: {location.text} is reserved"
                return OptOut("tdmrep", words) if reserved else None
        return None

    def _answer(self, origin: str, fetch: Fetch, patience_s: float) -> _Answer:
        with self._lock:
            host = self._hosts.setdefault(origin, _Host())
            self._hosts.move_to_end(origin)
        if not host.lock.acquire(timeout=min(max(patience_s, 0.0), threading.TIMEOUT_MAX)):
            raise TimeoutError(f"{origin}: another request for its rules takes too long")
        try:
            if host.answer is None or host.answer.expires <= self._clock():
                answer = self._ask(origin, fetch)
                self._keep(origin, host, answer)
                return answer
            return host.answer
        finally:
            host.lock.release()

    def _keep(self, origin: str, host: _Host, answer: _Answer) -> None:
        with self._lock:
            if self._hosts.get(origin) is host:
                self._weight += answer.weight - (host.answer.weight if host.answer else 0)
            host.answer = answer
            while len(self._hosts) > _MAX_HOSTS or self._weight > _MAX_WEIGHT:
                _, forgotten = self._hosts.popitem(last=False)
                self._weight -= forgotten.answer.weight if forgotten.answer else 0

    def _ask(self, origin: str, fetch: Fetch) -> _Answer:
        address = f"{origin}/robots.txt"
        status, text, failure = fetch(address)
        # RFC 9309, section 2.3.1: 4xx means that there are no rules, 5xx or silence that nothing
        # is allowed. 429 says "later", not "none".
        if status is None or status >= 500 or status == 429:
            words = f"{address}: {status or text}"
            silent = Unreachable(Outcome.ROBOTS_UNREACHABLE.value, words, failure)
            return _Answer(silent, RobotsRules(), (), self._clock() + _UNREACHABLE_S)
        robots = read_robots(text, self._agent) if 200 <= status < 300 else RobotsRules()
        tdmrep = self._tdmrep(origin, robots, fetch)
        return _Answer(None, robots, tdmrep, self._clock() + _DAY_S)

    def _tdmrep(
        self, origin: str, robots: RobotsRules, fetch: Fetch
    ) -> tuple[tuple[Pattern, bool], ...]:
        """The reservations of a host.

        A file that cannot be had means that the host does not take part (section "TDM File on
        the Origin Server" of the report), whatever the status: unlike robots.txt it is rare, and
        the header on each response says the same.
        """
        if robots.disallowing(_TDMREP):
            return ()
        status, text, _ = fetch(origin + _TDMREP)
        return read_tdmrep(text) if status is not None and 200 <= status < 300 else ()


def _origin(url: SplitResult) -> str:
    host = url.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if url.port in (None, _DEFAULT_PORTS.get(url.scheme)) else f":{url.port}"
    return f"{url.scheme}://{host}{port}"
