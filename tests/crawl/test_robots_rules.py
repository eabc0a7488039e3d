import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots_web import AGENT, allows, protego_allows

from pipelines.crawl.consent.robots_rules import read_robots, read_tdmrep, spelled

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
