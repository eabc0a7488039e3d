import threading
import tracemalloc

import pytest
from robots_web import AGENT, NONE, Rules, Web, web

from pipelines.crawl.consent import robots
from pipelines.crawl.consent.robots import RobotsFile, Unreachable
from pipelines.crawl.http.outcomes import Outcome


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
