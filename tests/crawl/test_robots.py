import json
import re
import threading
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protego import Protego

from pipelines.crawl.consent import robots
from pipelines.crawl.consent.robots import HostRules, RobotsFile, Unreachable
from pipelines.crawl.consent.robots_rules import read_robots, read_tdmrep, spelled
from pipelines.crawl.http.outcomes import Outcome

AGENT = "our-bot"
NONE = RobotsFile(404, "")


class Rules(HostRules):
    """Rules with one way to fetch."""

    def __init__(self, agent, fetch, clock=time.monotonic):
        super().__init__(agent, clock)
        self.fetch = fetch

    def forbids(self, url):
        return super().forbids(url, self.fetch)


class Web:
    """What hosts answer, and what they were asked."""

    def __init__(self, files: dict[str, RobotsFile], clock: list[float] | None = None):
        self.files = files
        self.asked: list[str] = []
        self.clock = clock or [0.0]
        self.rules = Rules("Our-Bot", self.fetch, lambda: self.clock[0])

    def fetch(self, address: str) -> RobotsFile:
        self.asked.append(address)
        return self.files.get(address, NONE)


def web(text: str, status: int | None = 200) -> Web:
    return Web({"http://h/robots.txt": RobotsFile(status, text)})


def allows(text: str, path: str, agent: str = AGENT) -> bool:
    return read_robots(text, agent).disallowing(spelled(path)) is None


def protego_allows(text: str, path: str, agent: str = AGENT) -> bool:
    return Protego.parse(text).can_fetch(f"http://h{path}", agent)


# RFC 9309, section 5.1.
SIMPLE = """\
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("agent", "path", "allowed"),
    [
        ("anybot", "/example/page.html", False),
        ("anybot", "/publications/x.html", True),
        ("anybot", "/a.gif", False),
        ("anybot", "/a.gif?x", True),
        ("FooBot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("foobot", "/publications/", False),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/", True),
        ("quxbot", "/example/page.html", True),
    ],
)
def test_the_first_example_of_the_rfc(agent, path, allowed):
    assert allows(SIMPLE, path, agent) is allowed
    assert protego_allows(SIMPLE, path, agent) is allowed


def test_the_second_example_of_the_rfc_the_longest_match_wins():
    text = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n"
    assert not allows(text, "/example/page/disallowed.gif", "foobot")
    assert allows(text, "/example/page/x.gif", "foobot")


# RFC 9309, section 2.2.2.
@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar?baz=https%3a%2F%2Ffoo.bar", "/foo/bar?baz=https://foo.bar"),
        ("/foo/bar/ツ", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%e3%83%84", "/foo/bar/ツ"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html"),
        ("/path/foo-%24", "/path/foo-$"),
    ],
)
def test_the_examples_of_the_rfc_for_escapes(rule, path):
    assert not allows(f"User-agent: *\nDisallow: {rule}\n", path)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/a%2Fb", "/a/b"),
        ("/a?b", "/a%3Fb"),
        ("/file-%2A.html", "/file-x.html"),
        ("/a$", "/a$"),
        ("/a$", "/ab"),
        ("/a%24", "/a"),
        ("/Foo", "/foo"),
        ("a", "/a"),
    ],
)
def test_what_a_rule_does_not_match(rule, path):
    assert allows(f"User-agent: *\nDisallow: {rule}\n", path)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/a$b", "/a$bc"),
        ("*", "/x"),
        ("/*.php", "/a/b.php?x=1"),
        ("/**b$", "/ab/b"),
        ("/a*a$", "/aa"),
        ("/x*redirect=http://", "/x?redirect=http%3A%2F%2Fh"),
        ("/%zz", "/%zz"),
    ],
)
def test_what_a_rule_matches(rule, path):
    assert not allows(f"User-agent: *\nDisallow: {rule}\n", path)


@pytest.mark.parametrize(
    "text",
    [
        "USER-AGENT: OUR-BOT\nDISALLOW: /\n",
        "\ufeffUser-agent: our-bot\nDisallow: /\n",
        "User-agent: our-bot\r\nDisallow: /\r\n",
        "User-agent: our-bot\rDisallow: /\r",
        " \tUser-agent\t: our-bot \n Disallow : / # all of it\n",
        "# hello\nUser-agent: our-bot # us\n\n\nDisallow: /",
        "User-agent: our-bot/1.0\nDisallow: /\n",
        "User-agent: x\nUser-agent: our-bot\nUser-agent: y\nDisallow: /\n",
        "User-agent: our-bot\nSitemap: /s.xml\nUser-agent: y\nDisallow: /\n",
        "User-agent: our-bot\nCrawl-delay: 3\nUser-agent: y\nDisallow: /\n",
        "User-agent: our-bot\nDisallow: /x\n\nUser-agent: y\nAllow: /\n\nUser-agent: our-bot\n"
        "Disallow: /\n",
        "User-agent: *\nDisallow: /\n\nUser-agent: our\nUser-agent: bot\nUser-agent: our-bot-news\n"
        "Allow: /\n",
        "User-agent: *\nDisallow: /\nAllow: /private\u2028Allow: /a\n",
        "User-agent our-bot\nDisallow /\n",
        "Useragent: our-bot\nDissallow: /\n",
    ],
)
def test_files_that_disallow_everything(text):
    assert not allows(text, "/a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Disallow: /</html>",
        "Disallow: /\nUser-agent: our-bot\n",
        "User-agent: our\nDisallow: /\n",
        "User-agent: bot\nDisallow: /\n",
        "User-agent: our-bot-news\nDisallow: /\n",
        "User-agent: *\nDisallow: /\n\nUser-agent: our-bot\nDisallow:\n",
        "User-agent: *\nDisallow: /\n\nUser-agent: our-bot\n",
        "User-agent: *\nDisallow: /\nAllow: /\n",
        "User-agent: *\nDisallow: /a\nAllow: /a\n",
        "User-agent: *\nDisallow: /%61\nAllow: /a\n",
        "User-agent: *\nDisallow: # nothing\n",
        "User-agent: *bot\nDisallow: /\n",
    ],
)
def test_files_that_allow_a_path(text):
    assert allows(text, "/a")


def test_robots_txt_itself_is_always_allowed():
    assert allows("User-agent: *\nDisallow: /\n", "/robots.txt")


def test_of_a_long_file_the_first_500_kib_count():
    head = "User-agent: *\nDisallow: /a\n"
    whole = f"{head}{'#' * (500 * 1024 - len(head) - 1)}\nDisallow: /b\n"
    assert not allows(whole, "/a")
    assert allows(whole, "/b")
    assert not allows(whole.replace("#" * 15, "", 1), "/b")


# Why protego, good as it is, does not decide here.
@pytest.mark.parametrize(
    ("text", "path", "by_the_rfc"),
    [
        ("User-agent: our\nDisallow: /\n", "/a", True),
        ("User-agent: our\nAllow: /\n\nUser-agent: *\nDisallow: /\n", "/a", False),
        ("User-agent: our-bot/1.0\nDisallow: /\n", "/a", False),
        ("\ufeffUser-agent: *\nDisallow: /\n", "/a", False),
        ("User-agent: *\nDisallow: /a\u2028Allow: /\n", "/a", True),
        ("User-agent: our-bot\nCrawl-delay: 3\nUser-agent: x\nDisallow: /\n", "/a", False),
        ("User-agent: *\nDisallow: /a/\nAllow: /a/index.html\n", "/a/", False),
        ("User-agent: *\nDisallow: /a$\n", "/a$b", True),
        ("User-agent: *\nDisallow: /a?bc\nAllow: /a*bc\n", "/a?bc", True),
        ("User-agent: *\nDisallow: /a?b\n", "/a%3Fb", True),
        ("User-agent: *\nDisallow: /a?b=https://c\n", "/a?b=https%3A%2F%2Fc", False),
    ],
)
def test_where_protego_departs_from_the_rfc(text, path, by_the_rfc):
    assert allows(text, path) is by_the_rfc
    assert protego_allows(text, path) is not by_the_rfc


PATTERNS = st.builds(
    "/{}{}".format, st.text("ab/*", max_size=5), st.sampled_from(["", "", "", "$"])
)
RULES = st.lists(st.tuples(st.sampled_from(["Allow", "Disallow"]), PATTERNS), max_size=6)
PATHS = st.builds("/{}".format, st.text("ab/", max_size=6))


def longest_match_allows(rules: list[tuple[str, str]], path: str) -> bool:
    best = (0, True)
    for field, pattern in rules:
        body = pattern.removesuffix("$")
        end = r"\Z" if pattern.endswith("$") else ""
        if re.match(re.escape(body).replace(r"\*", ".*") + end, path):
            best = max(best, (len(pattern), field == "Allow"))
    return best[1]


@settings(max_examples=300, deadline=None)
@given(RULES, PATHS)
def test_the_longest_match_of_all_wins_and_allow_wins_ties(rules, path):
    text = "User-agent: *\n" + "".join(f"{field}: {pattern}\n" for field, pattern in rules)
    expected = longest_match_allows(rules, path)
    assert allows(text, path) is expected
    assert protego_allows(text, path) is expected


NAMES = st.sampled_from(["our-bot", "Our-Bot", "*", "x", "our", "our-bot2"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), RULES), max_size=4), PATHS)
def test_our_groups_are_one_and_the_general_ones_count_only_without_them(groups, path):
    text = "".join(
        "".join(f"User-agent: {name}\n" for name in names)
        + "".join(f"{field}: {pattern}\n" for field, pattern in rules)
        + "Disallow:\n\n"
        for names, rules in groups
    )
    ours = [rules for names, rules in groups if {"our-bot", "Our-Bot"} & {*names}]
    general = [rules for names, rules in groups if "*" in names]
    binding = [rule for rules in (ours or general) for rule in rules]
    assert allows(text, path) is longest_match_allows(binding, path)


@given(st.binary(max_size=300))
def test_any_bytes_may_be_a_robots_txt_and_a_tdmrep_json(content):
    text = content.decode("utf-8", errors="replace")
    for whole in (
        text,
        f"User-agent: *\nDisallow: {text}",
        f"User-agent: *\nContent-Usage: {text}",
    ):
        rules = read_robots(whole, AGENT)
        rules.disallowing("/a")
        rules.refusing("/a")
    assert all(isinstance(reserved, bool) for _, reserved in read_tdmrep(text))


@given(st.text())
def test_a_spelling_is_ascii_and_final(text):
    assert spelled(text).isascii()
    assert spelled(spelled(text)).count("%") >= spelled(text).count("%25")


# draft-ietf-aipref-attach-05, section 3.4.
USAGE = """\
User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: ExampleBot
Allow: /
Content-Usage: train-ai=y
"""


@pytest.mark.parametrize(
    ("agent", "path", "signal"),
    [
        (AGENT, "/test", "content_usage"),
        (AGENT, "/never/test", "robots_txt"),
        (AGENT, "/ai-ok/test", None),
        ("examplebot", "/test", None),
        ("examplebot", "/never/test", None),
    ],
)
def test_the_example_of_the_draft_for_content_usage(agent, path, signal):
    rules = Rules(agent, Web({"http://h/robots.txt": RobotsFile(200, USAGE)}).fetch)
    found = rules.forbids(f"http://h{path}")
    assert (found and found.signal) == signal


@pytest.mark.parametrize(
    ("lines", "path", "text"),
    [
        ("Content-Usage:train-ai=n", "/a", "train-ai=n"),
        ("content-usage : /a\ttrain-ai=n # no", "/a", "/a train-ai=n"),
        ("Content-Usage: /a train-ai=n", "/b", None),
        ("Content-Usage: /*.jpg$ train-ai=n", "/x/a.jpg", "/*.jpg$ train-ai=n"),
        ("Content-Usage: /*.jpg$ train-ai=n", "/x/a.jpg?1", None),
        ("Content-Usage: / train-ai=y\nContent-Usage: / search=y, train-ai=n", "/", "/ search=y"),
        ("Content-Usage: train-ai=n\nContent-Usage: /a search=y", "/a", None),
        ("Content-Usage: train-ai=n\nContent-Usage: /a broken,", "/a", "train-ai=n"),
        ("Content-Usage: train-ai=n,", "/a", None),
        ("Content-Usage: /a", "/a", None),
        ("Content-Usage:", "/a", None),
        ("User-agent: x\nContent-Usage: train-ai=n", "/a", None),
    ],
)
def test_content_usage_lines(lines, path, text):
    found = read_robots(f"User-agent: {AGENT}\nAllow: /\n{lines}\n", AGENT).refusing(path)
    assert found is None if text is None else found and found.startswith(text)


def test_the_opt_out_quotes_the_rule():
    here = web("User-agent: our-bot\nDisallow: /mine/\nAllow: /mine/ok/\n")
    assert here.rules.forbids("http://h/mine/a.png") == (
        "robots_txt",
        "http://h/robots.txt: Disallow: /mine/",
    )
    assert here.rules.forbids("http://h/mine/ok/a.png") is None
    assert here.rules.forbids("http://h/else.png?a=/mine/") is None
    assert here.asked == ["http://h/robots.txt", "http://h/.well-known/tdmrep.json"]


def test_a_query_is_part_of_what_rules_match():
    rules = web("User-agent: *\nDisallow: /*?size=big\n").rules
    assert rules.forbids("http://h/a?size=big")
    assert rules.forbids("http://h/a?size=small") is None


def test_each_origin_has_its_own_file():
    here = Web({})
    for url in ("http://h/a", "http://h:80/b", "https://h/a", "https://h:443/b", "http://h:81/a"):
        here.rules.forbids(url)
    here.rules.forbids("http://[::1]:81/a")
    robots_files = [address for address in here.asked if address.endswith("robots.txt")]
    assert robots_files == [
        "http://h/robots.txt",
        "https://h/robots.txt",
        "http://h:81/robots.txt",
        "http://[::1]:81/robots.txt",
    ]


@pytest.mark.parametrize(
    ("status", "signal"),
    [
        (404, None),
        (403, None),
        (401, None),
        (301, None),
        (429, "robots_unreachable"),
        (503, "robots_unreachable"),
        (None, "robots_unreachable"),
    ],
)
def test_a_file_that_is_not_there_allows_and_one_that_cannot_be_had_forbids(status, signal):
    here = web("User-agent: *\nDisallow: /\n", status)
    found = here.rules.forbids("http://h/a")
    assert (found and found.signal) == signal
    assert len(here.asked) == (1 if signal else 2)


def test_silence_says_how_the_request_ended():
    silent = RobotsFile(None, "dns: no such name", Outcome.DNS)
    found = Web({"http://h/robots.txt": silent}).rules.forbids("http://h/a")
    text = "http://h/robots.txt: dns: no such name"
    assert found == Unreachable("robots_unreachable", text, Outcome.DNS)
    refused = web("", 503).rules.forbids("http://h/a")
    assert refused == Unreachable("robots_unreachable", "http://h/robots.txt: 503", None)


def test_an_answer_holds_for_a_day_and_silence_for_five_minutes():
    here = web("no answer", None)
    for now, asked in ((0, 1), (299, 1), (301, 2)):
        here.clock[0] = now
        assert here.rules.forbids("http://h/a").signal == "robots_unreachable"
        assert len(here.asked) == asked
    here.files["http://h/robots.txt"] = NONE
    for now, asked in ((602, 4), (24 * 3600 + 601, 4), (24 * 3600 + 603, 6)):
        here.clock[0] = now
        assert here.rules.forbids("http://h/a") is None
        assert len(here.asked) == asked


def test_many_threads_need_one_fetch_and_other_hosts_do_not_wait():
    asked: list[str] = []
    slow_is_asked, go_on = threading.Event(), threading.Event()

    def fetch(address: str) -> RobotsFile:
        asked.append(address)
        if address == "http://slow/robots.txt":
            slow_is_asked.set()
            assert go_on.wait(5)
        return NONE

    rules = Rules(AGENT, fetch)
    threads = [threading.Thread(target=rules.forbids, args=(f"http://slow/{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    assert slow_is_asked.wait(5)
    assert rules.forbids("http://other/a") is None
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert asked.count("http://slow/robots.txt") == asked.count("http://other/robots.txt") == 1


def test_a_fetch_that_fails_leaves_no_thread_waiting():
    def fetch(address: str) -> RobotsFile:
        raise RuntimeError(address)

    rules = Rules(AGENT, fetch)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="robots"):
            rules.forbids("http://h/a")


def test_a_hundred_thousand_hosts_take_bounded_memory():
    here = Web({})
    for i in range(100_000):
        here.rules.forbids(f"http://h{i}/a")
        here.asked.clear()
    assert len(here.rules._hosts) == robots._MAX_HOSTS
    here.rules.forbids("http://h99999/a")
    assert here.asked == []
    here.rules.forbids("http://h0/a")
    assert here.asked


def test_hosts_with_many_rules_take_bounded_memory(monkeypatch):
    monkeypatch.setattr(robots, "_MAX_WEIGHT", 500_000)
    text = "User-agent: *\n" + "".join(f"Disallow: /{i}\n" for i in range(200))
    rules = Rules(AGENT, lambda address: RobotsFile(200, text))
    for i in range(50):
        assert rules.forbids(f"http://h{i}/1")
        assert rules._weight == sum(host.answer.weight for host in rules._hosts.values())
        assert rules._weight <= 500_000
    assert 1 < len(rules._hosts) < 10


@pytest.mark.parametrize(
    "line",
    [
        "Disallow: /a%41{i}*{host}$\nAllow: /{i}\n",
        "Disallow: /{i}" + "*ab*cd*ef" * 50 + "\n",
        "Disallow: /{i}" + "*a" * 200 + "\n",
        "Disallow: /{i}*{i}*{host}*{i}{host}\n",
        "Disallow: /{i}" + "a" * 500 + "\n",
        "Disallow: /{i}" + "\U0001f5bc\N{COMBINING ACUTE ACCENT}ab" * 50 + "\n",
        "Content-Usage: /{i}*ab*cd train-ai=n, search=y;reason=x{i}\n",
    ],
)
def test_the_weight_of_rules_is_their_memory(line):
    def fetch(address: str) -> RobotsFile:
        lines = "".join(line.format(i=i, host=address[9:14]) for i in range(100))
        return RobotsFile(200, f"User-agent: *\n{lines}")

    rules = Rules(AGENT, fetch)
    rules.forbids("http://h/")
    tracemalloc.start()
    for i in range(20):
        rules.forbids(f"http://h{i}/")
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.6 < taken / (rules._weight * 20 / 21) < 1.3


def tdm(content: object) -> Web:
    return Web({"http://h/.well-known/tdmrep.json": RobotsFile(200, json.dumps(content))})


# The example of the report, section "TDM File on the Origin Server".
GROUPS = [
    {"location": "/directory-a/", "tdm-reservation": 1},
    {
        "location": "/directory-b/html/",
        "tdm-reservation": 1,
        "tdm-policy": "https://provider.com/policies/policy.json",
    },
    {"location": "/directory-b/images/*.jpg", "tdm-reservation": 0},
]


@pytest.mark.parametrize(
    ("rules", "path", "reserved"),
    [
        (GROUPS, "/directory-a/x.pdf", "/directory-a/"),
        (GROUPS, "/directory-b/html/x", "/directory-b/html/"),
        (GROUPS, "/directory-b/images/x.jpg", None),
        (GROUPS, "/else", None),
        ([{"location": "/", "tdm-reservation": 1}], "/else", "/"),
        ([{"location": "/a$", "tdm-reservation": 1}], "/ab", None),
        ([{"location": "/", "tdm-reservation": "1"}], "/a", "/"),
        ([GROUPS[2], {"location": "/", "tdm-reservation": 1}], "/directory-b/images/a.jpg", None),
        ([{"location": "/", "tdm-reservation": 1}, GROUPS[2]], "/directory-b/images/a.jpg", "/"),
        ([{"location": "/", "tdm-reservation": 2}], "/a", None),
        ([{"location": "/", "tdm-reservation": True}], "/a", None),
        ([{"location": 3, "tdm-reservation": 1}, {"tdm-reservation": 1}, 7, None], "/a", None),
        ({"location": "/", "tdm-reservation": 1}, "/a", None),
        ("nothing", "/a", None),
    ],
)
def test_tdmrep_json_the_first_location_that_matches_counts(rules, path, reserved):
    words = f"http://h/.well-known/tdmrep.json: {reserved} is reserved"
    expected = ("tdmrep", words) if reserved else None
    assert tdm(rules).rules.forbids(f"http://h{path}") == expected


@pytest.mark.parametrize(
    "file",
    [
        RobotsFile(None, "no answer"),
        RobotsFile(503, '[{"location": "/", "tdm-reservation": 1}]'),
        RobotsFile(404, '[{"location": "/", "tdm-reservation": 1}]'),
        RobotsFile(200, "<html>not here</html>"),
        RobotsFile(200, '[{"location": "/", "tdm-reservation": 1}'),
        RobotsFile(200, "[" * 100_000),
        RobotsFile(200, ""),
    ],
)
def test_a_tdmrep_json_that_cannot_be_had_or_read_reserves_nothing(file):
    here = Web({"http://h/.well-known/tdmrep.json": file})
    assert here.rules.forbids("http://h/a") is None
    assert here.rules.forbids("http://h/b") is None
    assert len(here.asked) == 2


def test_tdmrep_json_is_not_asked_for_where_robots_txt_forbids_it():
    here = web("User-agent: *\nDisallow: /\n")
    assert here.rules.forbids("http://h/a").signal == "robots_txt"
    assert here.asked == ["http://h/robots.txt"]
