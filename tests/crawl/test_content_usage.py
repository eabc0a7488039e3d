import pytest
from robots_web import AGENT, Rules, Web, web

from pipelines.crawl.consent.robots import RobotsFile
from pipelines.crawl.consent.robots_rules import read_robots

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
