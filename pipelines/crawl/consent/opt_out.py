"""Signals beside a page or picture that forbid its use: response headers and meta elements.

robots.txt and `/.well-known/tdmrep.json` are in `pipelines.crawl.consent.robots`.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import http_sf

from pipelines.crawl.http.outcomes import printable

# noindex and noimageindex count too: who asks not to be found asks not to be collected.
FORBIDDING = frozenset({"none", "noai", "noimageai", "noindex", "noimageindex", "noml"})

# The category of the AIPREF vocabulary that training on a picture falls under, in the current draft
# and in those before it, which sites still use: train-ai (draft-ietf-aipref-vocab-02 to -08),
# train-genai (-02, -03), genai, ai and tdm (-01), all (-02), bots (-03, -04). The current draft
# would ignore the retired names, and the older ones let a narrow `y` outweigh a broad `n`; here
# each refusal counts, because its author meant one.
REFUSED_USES = frozenset({"train-ai", "train-genai", "genai", "ai", "tdm", "all", "bots"})

_TAKES_VALUE = re.compile(r"(unavailable_after|max-[a-z-]+)\s*:\s*(.*)", re.I | re.S)
_OWNED = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*|\*)\s*:\s*(.*)", re.S)
_DATE_COMMAS = 2  # "Friday, June 25, 2010"
# Of the directives of one page or response; each may be a date, and reading one takes 10 us.
_MAX_CHARACTERS = 64 * 1024
_QUOTED_CHARACTERS = 1000  # stored with every row


class OptOut(NamedTuple):
    """Which signal forbids the use, and its own text."""

    signal: str
    text: str


def quoted(text: str) -> str:
    """What is kept of a signal's text: its beginning, printable."""
    return printable(text[:_QUOTED_CHARACTERS])[:_QUOTED_CHARACTERS]


def forbidden_by_headers(
    headers: Iterable[tuple[str, str]], agent: str, now: datetime | None = None
) -> OptOut | None:
    """What the headers of a response forbid to `agent`, or None.

    Args:
        headers: (name, value) of every header line, in any case; repeated names stay apart.
        agent: our product token.
        now: for `unavailable_after`; the present unless said.
    """
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)
    usage = ", ".join(values.get("content-usage", []))  # RFC 9651, section 4.2
    if usage and refuses_training(usage):
        return OptOut("content_usage", quoted(usage))
    for value in values.get("tdm-reservation", []):
        if value.strip() == "1":
            return OptOut("tdm_reservation", quoted(value))
    return x_robots_tag(values.get("x-robots-tag", []), agent, now)


def forbidden_by_meta(
    metas: Iterable[tuple[str, str]], agent: str, now: datetime | None = None
) -> OptOut | None:
    """What the <meta> elements of a page forbid to `agent`, or None.

    By TDMRep a meta element outweighs the header, and the header tdmrep.json. Here the first
    reservation that is met ends the exchange, so that what may outweigh it is not asked for.

    Args:
        metas: (name, content) of the page's meta elements.
        agent: our product token.
        now: for `unavailable_after`; the present unless said.
    """
    left = _MAX_CHARACTERS
    for name, content in metas:
        kind = name.strip().lower()
        if kind in ("robots", agent.lower()):
            content = content[:left]
            left -= len(content)
            if _forbids(content, agent, now):
                return OptOut("meta_robots", quoted(content))
        if kind == "tdm-reservation" and content.strip() == "1":
            return OptOut("meta_tdm_reservation", quoted(content))
    return None


def refuses_training(usage: str) -> bool | None:
    """Whether an AIPREF preference, `train-ai=n, search=y`, refuses what this project does.

    It is a dictionary of Structured Fields (RFC 9651). One that does not parse states nothing
    (draft-ietf-aipref-vocab-08, section 6.5.1): None. A value other than the token `n` refuses
    nothing.
    """
    try:
        stated = http_sf.parse(usage.encode(errors="replace"), tltype="dictionary")
    except ValueError:
        return None
    assert isinstance(stated, dict)
    for key in REFUSED_USES & stated.keys():
        member = stated[key]
        value = member[0] if isinstance(member, tuple) else member
        if isinstance(value, http_sf.Token) and str(value) == "n":
            return True
    return False


def x_robots_tag(values: Iterable[str], agent: str, now: datetime | None = None) -> OptOut | None:
    """What the X-Robots-Tag headers of a response forbid to `agent`, or None.

    https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag: a header is a
    list of directives; `name:` before one addresses it and those after it to that agent. Unknown
    directives are ignored.

    Args:
        values: the headers, one by one.
        agent: our product token.
        now: for `unavailable_after`; the present unless said.
    """
    left = _MAX_CHARACTERS
    for value in values:
        text = value[:left]
        left -= len(text)
        if _forbids(text, agent, now):
            return OptOut("x_robots_tag", quoted(text.strip()))
    return None


def _forbids(value: str, agent: str, now: datetime | None) -> bool:
    for owner, directive in _directives(value):
        if owner not in ("*", agent.lower()):
            continue
        if isinstance(directive, list):
            if _date(directive) <= (now or datetime.now(UTC)):
                return True
        elif FORBIDDING.intersection(re.split(r"[\s;]+", directive.lower())):
            return True
    return False


def _directives(value: str) -> Iterator[tuple[str, str | list[str]]]:
    """(agent in lower case or `*`, directive or what begins with the date of unavailability)."""
    owner = "*"
    items = [item.strip() for item in value.split(",")]
    for place, item in enumerate(items):
        named = _OWNED.fullmatch(item)
        if named and not _TAKES_VALUE.fullmatch(item):
            owner, item = named[1].lower(), named[2]
        valued = _TAKES_VALUE.fullmatch(item)
        if valued is None:
            yield owner, item
        elif valued[1].lower() == "unavailable_after":
            rest = items[place + 1 : place + 1 + _DATE_COMMAS]
            yield owner, [valued[2], *rest]


def _rfc_day(text: str) -> datetime:
    return parsedate_to_datetime(f"{text} 00:00:00")


def _date(items: list[str]) -> datetime:
    """The date at the beginning of a list that was cut at its commas.

    What is left of a date that was read in part is no known directive, so it does no harm. A date
    that nobody can read counts as past, other than at Google: its owner set a limit.
    """
    for count in range(1, len(items) + 1):
        text = ", ".join(items[:count])
        for read in (parsedate_to_datetime, _rfc_day, datetime.fromisoformat):
            try:
                moment = read(text)
            except (ValueError, TypeError, OverflowError, IndexError):
                continue
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return datetime.min.replace(tzinfo=UTC)
