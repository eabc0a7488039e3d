import contextlib
import threading

import pytest
from hostile import PNG, HostileServer, full

from pipelines.crawl.byte_budget import ByteBudget
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.outcomes import FetchError, Outcome
from pipelines.crawl.http.politeness import AdaptiveLimit


def talks(conn, answers):
    """Answer one request after another on a connection."""
    for answer in answers:
        request = b""
        while b"\r\n\r\n" not in request:
            data = conn.recv(65536)
            if not data:
                return
            request += data
        conn.sendall(answer)


@pytest.fixture
def server():
    made = HostileServer()
    yield made
    made.close()


MISSING = full(b"", status="404 Not Found")


def fetch(client, server, count=3):
    urls = [f"{server.url}/{i}.png" for i in range(count)]
    return [client.get(url, sniff_image, Outcome.NOT_AN_IMAGE).outcome for url in urls]


def test_requests_to_one_host_share_a_connection(server, http_config):
    server.on_connect = lambda conn: talks(conn, [MISSING, MISSING, *[full(PNG)] * 3])
    assert fetch(HttpClient(http_config), server) == [Outcome.OK] * 3
    assert server.connections == 1


def test_one_that_the_server_closes_is_replaced_and_no_attempt_is_counted(server, http_config):
    client = HttpClient(http_config)
    server.on_connect = lambda conn: talks(conn, [MISSING, MISSING])
    got = client.get(f"{server.url}/a.png", sniff_image, Outcome.NOT_AN_IMAGE)
    assert (got.outcome, got.attempts) == (Outcome.NOT_FOUND, 1)
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [full(PNG, "Connection: close"), full(PNG) + full(b"<html>"), full(PNG) + b"junk"],
)
def test_a_connection_with_more_to_say_is_not_used_again(server, http_config, answer):
    def attack(conn):
        with contextlib.suppress(OSError):
            talks(conn, [MISSING, MISSING, answer, answer])

    server.on_connect = attack
    client = HttpClient(http_config)
    assert fetch(client, server, 1) == [Outcome.OK]
    server.on_connect = lambda conn: talks(conn, [full(PNG)])
    assert fetch(client, server, 1) == [Outcome.OK]
    assert server.connections == 2


def test_a_wait_for_bytes_ends():
    budget = ByteBudget(1000)
    assert budget.take(1000)
    assert not budget.take(1, 0.05)
    budget.give(1000)
    assert budget.take(1, 0.0)


def test_a_wait_for_the_adaptive_limit_ends():
    limit = AdaptiveLimit(1)
    with limit.slot(), pytest.raises(FetchError) as refused, limit.slot(0.05):
        pass
    assert refused.value.outcome is Outcome.THROTTLED
    entered = threading.Event()
    with limit.slot(0.0):
        entered.set()
    assert entered.is_set()
