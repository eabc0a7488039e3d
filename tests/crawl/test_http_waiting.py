import threading
import time
from dataclasses import replace
from multiprocessing.pool import ThreadPool

import pytest
from hostile import full, redirect
from http_gets import PNG, POLICY, after, get

from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.outcomes import Outcome


def test_a_host_is_left_its_pause(site, http_config):
    client = HttpClient(replace(http_config, domain_delay_s=0.15))
    url = site.serve("/a.png", PNG)
    start = time.monotonic()
    for _ in range(3):
        assert client.get(url, sniff_image, Outcome.NOT_AN_IMAGE).outcome is Outcome.OK
    assert time.monotonic() - start >= 0.45


def test_a_server_that_asks_for_a_pause_gets_it(site, http_config):
    def busy_once(handler):
        if site.asked.count("/a.png") == 1:
            handler.send_response(429)
            handler.send_header("Retry-After", "1")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            good(handler)

    url = site.serve("/a.png", PNG)
    good = site.replies["/a.png"]
    site.replies["/a.png"] = busy_once
    start = time.monotonic()
    got = get(replace(http_config, deadline_s=0.8), url)
    assert (got.outcome, got.attempts) == (Outcome.OK, 2)
    assert time.monotonic() - start >= 1.0


def test_a_pause_that_is_too_long_leaves_the_host_for_later(site, http_config):
    client = HttpClient(replace(http_config, max_wait_s=5.0))
    busy = site.serve("/a.png", b"", 503, Retry_After="600")
    got = client.get(busy, sniff_image, Outcome.NOT_AN_IMAGE)
    assert (got.outcome, got.status, got.attempts) == (Outcome.THROTTLED, 503, 1)
    got = client.get(site.serve("/b.png", PNG), sniff_image, Outcome.NOT_AN_IMAGE)
    assert (got.outcome, got.status, got.attempts) == (Outcome.THROTTLED, None, 0)
    assert site.asked.count("/a.png") == 1
    assert "/b.png" not in site.asked


@pytest.mark.parametrize("wait_s", [0.7, 1.2])
def test_turns_of_all_redirects_and_tries_are_one_wait(hosts, http_config, wait_s):
    # Every host was asked a moment before, and each hop needs a turn of its own.
    servers = [hosts(f"127.0.0.{i}") for i in range(2, 7)]
    busy = f"{servers[0].url}/busy.png"
    servers[0].add("/busy.png", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    target = busy
    for server in servers[1:]:
        target = server.add("/a.png", redirect(target))
    delay_s = 0.5
    client = HttpClient(replace(http_config, domain_delay_s=delay_s, max_wait_s=wait_s))
    start = time.monotonic()
    got = client.get(target, sniff_image, Outcome.NOT_AN_IMAGE)
    assert got.outcome is Outcome.THROTTLED
    assert wait_s - delay_s <= time.monotonic() - start < wait_s + 0.4
    assert "/busy.png" not in servers[0].asked


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("seconds", [0.45, 0.55])
def test_slow_rules_add_one_deadline_to_those_of_the_tries(site, http_config, seconds, retries):
    def slow(handler):
        time.sleep(seconds)
        handler.send_error(404)

    def silent(handler):
        time.sleep(1.5)

    site.replies |= dict.fromkeys(POLICY, slow) | {"/a.png": silent}
    config = replace(http_config, deadline_s=0.5, retries=retries)
    start = time.monotonic()
    got = get(config, f"{site.url}/a.png")
    assert got.outcome in (Outcome.TIMEOUT, Outcome.ROBOTS_UNREACHABLE)
    assert time.monotonic() - start < 0.5 * (1 + retries) + 0.5 + 0.25


def test_slow_rules_of_another_host_at_each_try_add_one_deadline_too(hosts, http_config):
    first, *others = [hosts(f"127.0.0.{i}") for i in range(2, 5)]
    for server in others:
        for path in POLICY:
            server.add(path, after(0.45, full(b"")))
        server.add("/b.png", after(1.5, b""))
    targets = iter([f"{server.url}/b.png" for server in others])
    url = first.add("/a.png", lambda conn: conn.sendall(redirect(next(targets))))
    start = time.monotonic()
    got = get(replace(http_config, deadline_s=0.5, retries=1), url)
    assert (got.outcome, got.attempts) == (Outcome.TIMEOUT, 2)
    assert time.monotonic() - start < 0.5 * 2 + 0.5 + 0.25


def test_rules_cut_short_by_slow_ones_before_them_are_not_remembered(hosts, http_config):
    first, second = hosts("127.0.0.2"), hosts("127.0.0.3")
    for server in (first, second):
        for path in POLICY:
            server.add(path, after(0.4, full(b"")))
    target = second.add("/b.png", full(PNG))
    first.add("/a.png", redirect(target))
    client = HttpClient(replace(http_config, deadline_s=0.5, retries=0))
    got = client.get(f"{first.url}/a.png", sniff_image, Outcome.NOT_AN_IMAGE)
    assert got.outcome is Outcome.TIMEOUT
    # That was our own hurry: the second host has done nothing.
    assert client.get(target, sniff_image, Outcome.NOT_AN_IMAGE).outcome is Outcome.OK


def test_waiting_for_robots_costs_no_thread_its_own_deadline(site, http_config):
    def slow(path, seconds):
        usual = site.replies[path]
        site.replies[path] = lambda handler: (time.sleep(seconds), usual(handler))

    site.serve("/robots.txt", b"")
    slow("/robots.txt", 0.6)
    url = site.serve("/a.png", PNG)
    slow("/a.png", 0.6)
    client = HttpClient(replace(http_config, deadline_s=1.0, retries=0))
    with ThreadPool(3) as pool:
        got = pool.starmap(client.get, [(url, sniff_image, Outcome.NOT_AN_IMAGE)] * 3)
    assert [each.outcome for each in got] == [Outcome.OK] * 3


def test_no_more_exchanges_at_once_than_allowed(site, http_config):
    active, most = 0, 0
    lock = threading.Lock()

    def reply(handler):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.05)
        with lock:
            active -= 1
        good(handler)

    url = site.serve("/a.png", PNG)
    good = site.replies["/a.png"]
    site.replies["/a.png"] = reply
    client = HttpClient(replace(http_config, domain_connections=50), None, 3)
    with ThreadPool(12) as pool:
        got = pool.starmap(client.get, [(url, sniff_image, Outcome.NOT_AN_IMAGE)] * 12)
    assert {each.outcome for each in got} == {Outcome.OK}
    assert most <= 3
