import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.consent.opt_out import (
    OptOut,
    forbidden_by_headers,
    forbidden_by_meta,
    refuses_training,
)

NOW = datetime(2024, 5, 1, tzinfo=UTC)
AGENT = "our-bot"
DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex", "noml", "none", "nofollow", "all")


def by_headers(*lines: tuple[str, str]) -> OptOut | None:
    return forbidden_by_headers(lines, "Our-Bot", NOW)


def tagged(*values: str) -> OptOut | None:
    return by_headers(*(("X-Robots-Tag", value) for value in values))


@pytest.mark.parametrize(
    "header",
    [
        "noai",
        "NOINDEX, nofollow",
        "none",
        "noml",
        "nofollow, noimageai",
        "nofollow,noimageai",
        "noimageindex",
        "nofollow noindex",
        "our-bot: noai",
        "OUR-BOT: nofollow, noindex",
        "our-bot:noindex",
        "otherbot: noai, our-bot: noindex",
        "*: noai",
        "otherbot: noindex, *: noai",
        "unavailable_after: 25 Jun 2010 15:00:00 PST",
        "unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "unavailable_after: Friday, 25-Jun-10 15:00:00 GMT",
        "unavailable_after: Friday, June 25, 2010 15:00:00 GMT",
        "unavailable_after: June 25, 2010",
        "unavailable_after: Fri Jun 25 15:00:00 2010",
        "unavailable_after: 2024-04-30",
        "unavailable_after:2024-04-30T23:59:59+00:00",
        "unavailable_after: 2024-05-01T01:59:59+02:00",
        "unavailable_after: who knows",
        "unavailable_after:",
        "Unavailable_After: 2024-04-30",
        "noai, unavailable_after: Wed, 25 Jun 2099 15:00:00 GMT",
        "unavailable_after: Wed, 25 Jun 2099 15:00:00 GMT, noindex",
        "unavailable_after: June 25, 2099, noindex",
        "unavailable_after: Wednesday, June 25, 2099 15:00:00 GMT, x, noindex",
        "our-bot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "max-snippet: 20, noindex",
        "max-something-new: 20, noindex",
    ],
)
def test_x_robots_tag_forbids(header):
    assert tagged("nofollow", header) == ("x_robots_tag", header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",,:,",
        "all",
        "nofollow, noarchive",
        "noindexing, none-of-it",
        "otherbot: noai",
        "otherbot: noindex, nofollow",
        "our-bot-news: noindex",
        "our: noindex",
        "bot: noindex",
        "unavailable_after: Wed, 25 Jun 2099 15:00:00 GMT",
        "unavailable_after: Wednesday, 25-Jun-68 15:00:00 GMT",
        "unavailable_after: June 25, 2099",
        "unavailable_after: 25 Jun 2099",
        "unavailable_after: 2099-06-25T15:00:00Z",
        "unavailable_after: 2024-05-01T00:00:01+00:00",
        "otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT",
        "otherbot: unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT, noindex",
        "max-image-preview: none",
        "max-image-preview: none, follow",
    ],
)
def test_x_robots_tag_allows(header):
    assert tagged(header) is None


def test_the_agent_of_one_header_does_not_hold_for_the_next():
    assert tagged("otherbot: nofollow", "noindex") == ("x_robots_tag", "noindex")


@given(st.text())
def test_any_text_may_be_an_x_robots_tag(text):
    found = tagged(text)
    assert found is None or found.text == text.strip()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "our-bot", "Our-Bot", "*", "otherbot", "our"]),
            st.lists(
                st.sampled_from([*DIRECTIVES, "max-snippet: 1", "unavailable_after: 2099-01-01"]),
                min_size=1,
            ),
        )
    )
)
def test_only_what_is_said_to_us_binds(headers):
    values = [(f"{owner}: " if owner else "") + ", ".join(said) for owner, said in headers]
    harmless = {"nofollow", "all", "max-snippet: 1", "unavailable_after: 2099-01-01"}
    ours = [said for owner, said in headers if owner not in ("otherbot", "our")]
    assert (tagged(*values) is not None) == any(set(said) - harmless for said in ours)


@pytest.mark.parametrize(
    "usage",
    [
        "train-ai=n",
        "train-genai=n",
        "genai=n",
        "ai=n",
        "tdm=n",
        "all=n",
        "bots=n",
        "search=y, train-ai=n",
        "train-ai=n;reason=legal",
        "train-ai=y, train-ai=n",
        "search=y,\ttrain-ai=n ",
    ],
)
def test_content_usage_refuses(usage):
    assert refuses_training(usage) is True
    assert by_headers(("content-usage", usage)) == ("content_usage", usage.replace("\t", r"\x09"))


@pytest.mark.parametrize(
    "usage",
    [
        "",
        "train-ai=y",
        "search=n",
        "ai-use=n",
        "train-ai",
        'train-ai="n"',
        "train-ai=no",
        "train-ai=n, train-ai=y",
        "train-ai;allow=n",
        "train-ai=(n)",
    ],
)
def test_content_usage_states_no_refusal(usage):
    assert refuses_training(usage) is False
    assert by_headers(("Content-Usage", usage)) is None


@pytest.mark.parametrize("usage", ["Train-AI=n", "train-ai=n,", "train-ai: n", "train-ai=n é", "="])
def test_a_content_usage_that_does_not_parse_states_nothing(usage):
    assert refuses_training(usage) is None
    assert by_headers(("Content-Usage", usage)) is None


def test_content_usage_lines_are_one_dictionary():
    lines = (("Content-Usage", "search=y"), ("content-usage", "train-ai=n"))
    assert by_headers(*lines) == ("content_usage", "search=y, train-ai=n")
    assert by_headers(*lines, ("Content-Usage", "not a dictionary")) is None


@given(st.text())
def test_any_text_may_be_a_content_usage(text):
    assert refuses_training(text) in (True, False, None)


@pytest.mark.parametrize(("value", "reserved"), [("1", True), (" 1 ", True), ("0", False)])
def test_tdm_reservation_header(value, reserved):
    found = by_headers(("TDM-Reservation", value), ("tdm-policy", "https://h/p.json"))
    assert found == (("tdm_reservation", value) if reserved else None)


@pytest.mark.parametrize("value", ["", "2", "true", "1, 0", "yes"])
def test_other_values_of_tdm_reservation_are_errors_and_reserve_nothing(value):
    assert by_headers(("tdm-reservation", value)) is None
    assert forbidden_by_meta([("tdm-reservation", value)], "our-bot") is None


def test_other_headers_say_nothing():
    assert by_headers(("Content-Type", "noai"), ("Server", "none"), ("Robots", "noindex")) is None


@pytest.mark.parametrize(
    ("name", "content", "signal"),
    [
        ("robots", "noindex, nofollow", "meta_robots"),
        ("ROBOTS", "NOAI", "meta_robots"),
        (" Our-Bot ", "noimageai", "meta_robots"),
        ("robots", "unavailable_after: 2010-09-21", "meta_robots"),
        ("TDM-Reservation", "1", "meta_tdm_reservation"),
        ("robots", "all", None),
        ("robots", "unavailable_after: 2099-09-21", None),
        ("googlebot", "noindex", None),
        ("our", "noindex", None),
        ("tdm-reservation", "0", None),
        ("description", "noai", None),
    ],
)
def test_meta_elements(name, content, signal):
    metas = [("viewport", "width=1"), (name, content)]
    expected = (signal, content) if signal else None
    assert forbidden_by_meta(metas, "our-bot", NOW) == expected


@pytest.mark.parametrize(
    "content",
    [
        "another-bot: a," + "unavailable_after:x," * 1_000_000,
        "unavailable_after: 1 Jan 2999," * 600_000,
        "unavailable_after: 2 Jan 2999 00:00:00 x" + " x" * 1_000_000,
        "unavailable_after" + " " * 20_000_000,
        "a:" * 10_000_000,
        "," * 20_000_000,
    ],
)
def test_a_page_of_directives_is_read_in_no_time(content):
    pieces = [content[at : at + 50_000] for at in range(0, len(content), 50_000)]
    started = time.process_time()
    forbidden_by_meta([("robots", content)], AGENT)
    forbidden_by_meta([("robots", piece) for piece in pieces], AGENT)
    forbidden_by_headers([("X-Robots-Tag", piece) for piece in pieces], AGENT)
    assert time.process_time() - started < 0.5


def test_what_is_quoted_is_printable_and_short():
    text = "noai, \x1b[2J\n\x85\u202e\x00"
    escaped = r"noai, \x1b[2J\x0a\x85\x202e\x00"
    assert forbidden_by_meta([("robots", text)], AGENT) == ("meta_robots", escaped)
    assert forbidden_by_headers([("X-Robots-Tag", text)], AGENT) == ("x_robots_tag", escaped)
    long = forbidden_by_meta([("robots", "noai" + ", \x1b" * 9_000)], AGENT)
    assert long.text.isprintable()
    assert len(long.text) == 1000
