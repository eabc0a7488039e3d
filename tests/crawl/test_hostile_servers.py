"""Every attack on the fetch ends in its outcome, in time and in little memory.

One client process, with the network 127.0.0.1/32 allowed and a deadline of a second, fetches all of
them; 127.0.0.2 stands for an internal host, which must never see a connection.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import (
    PNG,
    FullBacklog,
    full,
    redirect,
)
from hostile_answers import OK, UNSAFE
from hostile_arena import DEADLINE_S, Arena

from pipelines.crawl.http import resolver
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.connect import Connector, Target
from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.outcomes import Outcome

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    with contextlib.ExitStack() as close:
        yield Arena(tmp_path_factory.mktemp("tls"), close)


@pytest.fixture(scope="module")
def report(arena):
    """What became of every URL, all fetched by one process of its own."""
    # A proxy that the environment names must not be used: it would see every URL.
    proxy = f"http://127.0.0.2:{arena.internal.port}"
    environment = os.environ | dict.fromkeys(("HTTP_PROXY", "http_proxy", "https_proxy"), proxy)
    task = {"config": vars(arena.config()), "urls": arena.urls}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "hostile_client.py")],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_attack_ends_in_its_outcome(arena, report):
    wrong = {
        name: (str(outcome), *report["results"][name])
        for name, outcome in arena.expected.items()
        if report["results"][name][0] != outcome
    }
    assert not wrong
    assert len(report["results"]) > 150


def test_each_attack_ends_in_time(report):
    slow = {name: got for name, got in report["results"].items() if got[2] > DEADLINE_S + 1}
    assert not slow


def test_memory_stays_small(report):
    assert report["peak_mb"] < 300


def test_an_internal_host_sees_no_connection(arena, report):
    assert arena.internal.connections == 0


def test_no_picture_is_asked_for_after_a_disallow(arena, report):
    assert "/closed/a.png" not in arena.hostile.asked
    assert len(arena.forbidding) > 5
    for server in arena.forbidding:
        assert "/robots.txt" in server.asked
        assert "/a.png" not in server.asked


def test_requests_carry_no_more_than_they_should(arena, report):
    request = next(r for r in arena.hostile.requests if b"/fine " in r).decode()
    names = [line.split(":")[0] for line in request.strip().split("\r\n")[1:]]
    assert names == ["Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"]
    assert "User-Agent: dalle-graph/0.1 (+mailto:tests@localhost)" in request


def get(config, url):
    return HttpClient(config).get(url, sniff_image, Outcome.NOT_AN_IMAGE)


def test_a_name_that_moves_to_an_internal_address_is_refused(arena, monkeypatch):
    monkeypatch.setattr(resolver, "LEAST_TTL_S", 0.0)
    arena.dns.at("moves.test", *[["127.0.0.1"]] * 3, ["127.0.0.2"])
    url = f"http://moves.test:{arena.hostile.port}/fine"
    client = HttpClient(arena.config())
    got = [client.get(url, sniff_image, Outcome.NOT_AN_IMAGE).outcome for _ in range(2)]
    assert got == [OK, UNSAFE]
    assert arena.internal.connections == 0


@pytest.mark.parametrize("name", ["slow_body", "silence_after_head"])
def test_a_body_below_the_least_rate_is_given_up_early(arena, name):
    started = time.monotonic()
    got = get(replace(arena.config(), deadline_s=7.0), f"{arena.hostile.url}/{name}")
    assert got.outcome is Outcome.TOO_SLOW
    # The rate counts from the third second on, and the deadline is the seventh.
    assert 2.9 < time.monotonic() - started < 6.5


def test_an_address_that_does_not_answer_leaves_time_for_the_next(arena):
    backlog = FullBacklog("127.0.0.3", arena.hostile.port)
    target = Target("two.test", arena.hostile.port, False, ("127.0.0.3", "127.0.0.1"))
    started = time.monotonic()
    with Connector(arena.config()).open(target, Deadline(0.6)) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"
    assert time.monotonic() - started > 0.25
    backlog.close()


def test_a_chain_of_slow_robots_files_is_bounded(arena):
    def slow(conn):
        time.sleep(0.6)
        conn.sendall(full(b""))

    target = arena.hostile.url + "/fine"
    for _ in range(5):
        server = arena.server()
        server.add("/robots.txt", slow)
        target = server.add("/a.png", redirect(target))
    started = time.monotonic()
    assert get(arena.config(), target).outcome is Outcome.TIMEOUT
    # A deadline of its own and one more for what it waited; all five files would take three.
    assert time.monotonic() - started < 2 * DEADLINE_S + 0.8


def test_an_ipv6_address_is_fetched_from_where_allowed(arena):
    try:
        server = arena.server(address="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    url = server.add("/a.png", full(PNG))
    assert get(replace(arena.config(), allow_networks=("::1/128",)), url).outcome is OK
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[-1]
    assert get(arena.config(), url).outcome is UNSAFE
