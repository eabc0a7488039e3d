"""What a robots.txt (RFC 9309) and a tdmrep.json say about the paths of their host.

Both use one kind of path pattern, and so do the Content-Usage lines in robots.txt. Protego answers
only "may this URL be fetched", and not always as the RFC does: it takes a group for `dalle` to mean
`dalle-graph`, loses the first group behind a byte order mark, lets unknown lines end a group, adds
rules of its own for `index.html` and `$`, and weighs `?` as three octets. So the few lines that the
grammar needs are here.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from pipelines.crawl.consent.opt_out import refuses_training

# RFC 9309, section 2.5: at least 500 KiB are read; the rest of a longer file is not.
MAX_CHARACTERS = 500 * 1024

# Section 2.2.1. Behind the token some write a version, which the RFC does not know.
_TOKEN = re.compile(r"([A-Za-z_-]+|\*)(?=[/\s]|$)")
# Misspellings that others accept too; who wrote them meant the rule.
_FIELDS = {
    **dict.fromkeys(("user-agent", "useragent", "user agent"), "user-agent"),
    **dict.fromkeys(("disallow", "dissallow", "dissalow", "disalow", "diasllow"), "disallow"),
    "allow": "allow",
    "content-usage": "content-usage",
}
# An escape, or a character that is always escaped.
_PLAIN = r"A-Za-z0-9._~/?:@!'(),;\[\]+&=-"
_TO_SPELL = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_PLAIN}]", re.S)
_TO_SPELL_IN_PATTERN = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^*{_PLAIN}]", re.S)
_DATA_IN_PATH = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:@!'(),;[]+&="
)
_DATA_IN_QUERY = _DATA_IN_PATH | frozenset(b"/?")


def spelled(target: str, escaped: re.Pattern[str] = _TO_SPELL) -> str:
    """The one spelling of a path with its query, for comparison.

    Section 2.2.2 wants reserved characters escaped on both sides, so that `:` equals `%3A`; here
    both become `:`, which compares alike. Only `/`, `?`, `*`, `$`, `#` and `%` differ from their
    escapes, where they are more than data.
    """
    if not escaped.search(target):
        return target
    path, mark, query = target.partition("?")
    return (
        escaped.sub(lambda found: _spell(found[0], _DATA_IN_PATH), path)
        + mark
        + escaped.sub(lambda found: _spell(found[0], _DATA_IN_QUERY), query)
    )


def _spell(text: str, data: frozenset[int]) -> str:
    if len(text) == 1:
        return "".join(f"%{octet:02X}" for octet in text.encode(errors="replace"))
    octet = unquote_to_bytes(text)[0]
    return chr(octet) if octet in data else text.upper()


class Pattern(NamedTuple):
    """A path pattern: `*` stands for any characters, `$` at its end for the end.

    Attributes:
        text: as it stands in the file.
        pieces: the spelled text between the stars.
        anchored: whether it ends with `$`.
        octets: its spelled length; the longest pattern that matches is the most specific.
    """

    text: str
    pieces: tuple[str, ...]
    anchored: bool
    octets: int

    @classmethod
    def of(cls, text: str) -> "Pattern":
        """Read a pattern."""
        anchored = text.endswith("$")
        whole = spelled(text[:-1] if anchored else text, _TO_SPELL_IN_PATTERN)
        return cls(text, tuple(whole.split("*")), anchored, len(whole) + anchored)

    def matches(self, target: str) -> bool:
        """Whether it matches a spelled path with query; time grows with the path's length only."""
        first, *others = self.pieces
        if not target.startswith(first):
            return False
        at = len(first)
        if not others:
            return not self.anchored or at == len(target)
        for piece in others[:-1]:
            at = target.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        if self.anchored:
            return len(target) - len(others[-1]) >= at and target.endswith(others[-1])
        return target.find(others[-1], at) >= 0


class RobotsRules(NamedTuple):
    """The rules of a robots.txt that bind one agent.

    Attributes:
        access: (pattern, whether it allows), the most specific first.
        usage: (pattern, preference, whether it refuses training), the most specific first.
    """

    access: tuple[tuple[Pattern, bool], ...] = ()
    usage: tuple[tuple[Pattern, str, bool], ...] = ()

    def disallowing(self, target: str) -> Pattern | None:
        """The pattern that disallows a spelled path (section 2.2.2), or None."""
        if target == "/robots.txt":
            return None
        for pattern, allows in self.access:
            if pattern.matches(target):
                return None if allows else pattern
        return None

    def refusing(self, target: str) -> str | None:
        """The preference that refuses training on a spelled path, or None.

        draft-ietf-aipref-attach-05, section 3.1: as for Allow and Disallow the longest pattern
        counts; of several for one path the most restrictive.
        """
        octets = 0
        for pattern, preference, refuses in self.usage:
            if pattern.octets < octets:
                return None
            if pattern.matches(target):
                octets = pattern.octets
                if refuses:
                    return f"{pattern.text} {preference}".strip()
        return None


def read_robots(text: str, agent: str) -> RobotsRules:
    """Read the groups for `agent`, all of them together, or those for `*` if it has none.

    Lines of other kinds neither count nor end a group, and a Content-Usage line that does not
    parse is one of them.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    names: set[str] = set()
    named_now = False
    for field, value in _records(text[:MAX_CHARACTERS]):
        if field == "user-agent":
            names = names if named_now else set()
            named_now = True
            if token := _TOKEN.match(value):
                names.add(token[0].lower())
                groups.setdefault(token[0].lower(), [])
            continue
        named_now = False
        for name in names & {agent.lower(), "*"}:
            groups[name].append((field, value))
    return _compiled(groups.get(agent.lower(), groups.get("*", [])))


def _records(text: str) -> Iterator[tuple[str, str]]:
    """(known field, value) of each line that has one."""
    for line in re.split(r"[\r\n]+", text.removeprefix("\ufeff")):
        bare = line.partition("#")[0]
        name, _, value = bare.partition(":")
        field = _FIELDS.get(name.strip().lower())
        if field is None:
            name, value = [*bare.split(None, 1), "", ""][:2]
            field = _FIELDS.get(name.lower())
        if field:
            yield field, value.strip()


def _compiled(lines: list[tuple[str, str]]) -> RobotsRules:
    access = []
    usage = []
    for field, value in dict.fromkeys(lines):
        if field == "content-usage":
            path, preference = _path_and_preference(value)
            refuses = refuses_training(preference)
            if refuses is not None:
                usage.append((Pattern.of(path), preference, refuses))
        elif value:
            access.append((Pattern.of(value), field == "allow"))
    access.sort(key=lambda rule: (-rule[0].octets, not rule[1]))
    usage.sort(key=lambda rule: -rule[0].octets)
    return RobotsRules(tuple(access), tuple(usage))


def _path_and_preference(value: str) -> tuple[str, str]:
    """Section 3.2 of draft-ietf-aipref-attach-05: what does not begin with `/` has no path."""
    if not value.startswith("/"):
        return "", value
    path, preference = [*value.split(None, 1), ""][:2]
    return path, preference


def read_tdmrep(text: str) -> tuple[tuple[Pattern, bool], ...]:
    """(location, whether its rights are reserved) of each rule in a tdmrep.json, in its order.

    https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/: an array of objects. A
    file that is none reserves nothing; neither does a rule with another value than 0 or 1.
    """
    try:
        rules = orjson.loads(text[:MAX_CHARACTERS].removeprefix("\ufeff").encode())
    except ValueError:
        return ()
    found = []
    for rule in rules if isinstance(rules, list) else []:
        location = rule.get("location") if isinstance(rule, dict) else None
        if isinstance(location, str) and str(rule.get("tdm-reservation")) in ("0", "1"):
            found.append((Pattern.of(location), str(rule["tdm-reservation"]) == "1"))
    return tuple(found)
