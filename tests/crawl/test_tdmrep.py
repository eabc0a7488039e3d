import json

import pytest
from robots_web import Web, web

from pipelines.crawl.consent.robots import RobotsFile


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
