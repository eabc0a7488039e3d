"""Signals that forbid the use of a page or picture: robots.txt and X-Robots-Tag."""

import re
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from protego import Protego

# noindex and noimageindex count too: who asks not to be found asks not to be collected.
FORBIDDING = frozenset({"none", "noai", "noimageai", "noindex", "noimageindex"})
_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)
_KNOWN = FORBIDDING | _WITH_VALUE | {
    "all", "index", "follow", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate",
    "nositelinkssearchbox", "indexifembedded", "imageindex", "ai",
}  # fmt: skip
_NAMED = re.compile(r"\s*([A-Za-z][A-Za-z0-9_*.-]*|\*)\s*:\s*(.*)", re.S)


class OptOut(NamedTuple):
    """Which signal forbids the use, and its own text."""

    signal: str
    text: str


def x_robots_tag(values: Iterable[str], agent: str, now: datetime | None = None) -> OptOut | None:
    """What the X-Robots-Tag headers of a response forbid to `agent`, or None.

    A header is a list of directives, perhaps behind `agent:`, which holds to its end or to the
    next agent. Dates of `unavailable_after` may hold commas and colons; one that nobody can read
    forbids.

    Args:
        values: the headers, one by one.
        agent: our product token.
        now: for `unavailable_after`; the present unless said.
    """
    now = now or datetime.now(UTC)
    for value in values:
        for owner, name, argument in _directives(value):
            if owner not in (None, "*", agent.lower()):
                continue
            if name in FORBIDDING or (name == "unavailable_after" and _is_past(argument, now)):
                return OptOut("x_robots_tag", value.strip())
    return None


def _directives(value: str) -> Iterable[tuple[str | None, str, str]]:
    """(agent or None, directive, its value), all but the value in lower case."""
    owner: str | None = None
    pending: tuple[str | None, str, str] | None = None
    for item in value.split(","):
        text = item.strip()
        named = _NAMED.fullmatch(text)
        prefix = named[1].lower() if named else ""
        if pending and not _starts_directive(text, prefix):
            pending = (*pending[:2], f"{pending[2]},{item}")
            continue
        if pending:
            yield pending
            pending = None
        if named and prefix not in _WITH_VALUE:
            owner, text = prefix, named[2].strip()
            named = _NAMED.fullmatch(text)
            prefix = named[1].lower() if named else ""
        if named and prefix in _WITH_VALUE:
            pending = (owner, prefix, named[2])
        elif text:
            yield owner, text.lower(), ""
    if pending:
        yield pending


def _starts_directive(text: str, prefix: str) -> bool:
    """Whether an item after a value begins something new: else it belongs to a date."""
    return text.lower() in _KNOWN or bool(prefix)


def _is_past(text: str, now: datetime) -> bool:
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text.strip())
        except (ValueError, TypeError):
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) <= now
    return True


class RobotsFile(NamedTuple):
    """A robots.txt as fetched: its status (None if the host gave no answer) and text."""

    status: int | None
    text: str


class Robots:
    """Answers of robots.txt, fetched once a host.

    RFC 9309: 4xx means that everything is allowed, 5xx or no answer that nothing is. Safe for
    threads; threads that need the same host wait for one fetch.
    """

    def __init__(self, agent: str, fetch: Callable[[str], RobotsFile]):
        """Ask as `agent`; `fetch` gets the address of a robots.txt and follows its redirects."""
        self._agent = agent
        self._fetch = fetch
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[threading.Lock, list[Protego | OptOut]]] = {}

    def forbids(self, url: str) -> OptOut | None:
        """The rule that forbids `url`, or None."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            lock, answer = self._hosts.setdefault(origin, (threading.Lock(), []))
        with lock:
            if not answer:
                answer.append(self._rules(f"{origin}/robots.txt"))
        rules = answer[0]
        if isinstance(rules, OptOut):
            return rules
        if rules.can_fetch(url, self._agent):
            return None
        return OptOut("robots_txt", f"{origin}/robots.txt disallows {parts.path or '/'}")

    def _rules(self, address: str) -> Protego | OptOut:
        status, text = self._fetch(address)
        if status is None or status >= 500:
            return OptOut("robots_unreachable", f"{address}: {status or text}")
        return Protego.parse(text if status < 300 else "")
