from datetime import UTC, datetime

import pytest

from pipelines.crawl.opt_out import Robots, RobotsFile, x_robots_tag

NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "header",
    [
        "noai",
        "NOINDEX, nofollow",
        "none",
        "nofollow, noimageai",
        "noimageindex",
        "our-bot: noai",
        "OUR-BOT: nofollow, noindex",
        "otherbot: noai, our-bot: noindex",
        "*: noai",
        "unavailable_after: 25 Jun 2010 15:00:00 PST",
        "unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "unavailable_after: 2024-04-30",
        "unavailable_after: who knows",
        "noai, unavailable_after: Wed, 25 Jun 2099 15:00:00 GMT",
        "unavailable_after: Wed, 25 Jun 2099 15:00:00 GMT, noindex",
        "our-bot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "max-snippet: 20, noindex",
    ],
)
def test_forbidden(header):
    found = x_robots_tag(["nofollow", header], "Our-Bot", NOW)
    assert found is not None
    assert found.text == header


@pytest.mark.parametrize(
    "header",
    [
        "",
        "all",
        "nofollow, noarchive",
        "otherbot: noai",
        "otherbot: noindex, nofollow",
        "unavailable_after: Wed, 25 Jun 2099 15:00:00 GMT",
        "otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "max-image-preview: none-of-these",
    ],
)
def test_allowed(header):
    assert x_robots_tag([header], "our-bot", NOW) is None


def robots(status: int | None, text: str = "") -> tuple[Robots, list[str]]:
    asked: list[str] = []

    def fetch(address: str) -> RobotsFile:
        asked.append(address)
        return RobotsFile(status, text)

    return Robots("our-bot", fetch), asked


def test_our_group_counts_before_the_general_one():
    rules, asked = robots(
        200,
        "User-agent: our-bot\nDisallow: /mine/\nAllow: /mine/ok/\n\nUser-agent: *\nDisallow: /\n",
    )
    assert rules.forbids("http://h/mine/a.png").signal == "robots_txt"
    assert rules.forbids("http://h/mine/ok/a.png") is None
    assert rules.forbids("http://h/else.png") is None
    assert asked == ["http://h/robots.txt"]


def test_each_origin_has_its_own_file():
    rules, asked = robots(200, "User-agent: *\nDisallow: /a\n")
    assert rules.forbids("http://h/a")
    assert rules.forbids("http://h:81/a")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("status", "signal"),
    [(404, None), (403, None), (503, "robots_unreachable"), (None, "robots_unreachable")],
)
def test_missing_files(status, signal):
    found = robots(status, "User-agent: *\nDisallow: /\n")[0].forbids("http://h/a")
    assert (found and found.signal) == signal
