import threading
import time

import pytest
from stub_dns import StubDns

from pipelines.crawl.http import resolver as module
from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.outcomes import FetchError, Outcome
from pipelines.crawl.http.resolver import Resolver, literal_address


@pytest.fixture
def dns():
    stub = StubDns()
    yield stub
    stub.close()


@pytest.fixture
def resolver(dns):
    return Resolver([dns.nameserver], full_s=0.5)


def failure(resolver, host, seconds=0.5):
    started = time.monotonic()
    with pytest.raises(FetchError) as error:
        resolver.addresses(host, Deadline(seconds))
    assert time.monotonic() - started < seconds + 0.5
    return error.value


def test_an_answer_is_asked_for_once(dns, resolver):
    dns.at("a.test", ["127.0.0.1", "127.0.0.2"])
    for host in ("a.test", "a.test", "a.test."):
        assert sorted(resolver.addresses(host, Deadline(1))) == ["127.0.0.1", "127.0.0.2"]
    assert dns.asked == [("a.test", "A")]


def test_ipv6_is_asked_for_where_there_is_no_ipv4(dns, resolver):
    dns.at("six.test", ["::1"])
    assert resolver.addresses("six.test", Deadline(1)) == ("::1",)
    assert [kind for _, kind in dns.asked] == ["A", "AAAA"]


@pytest.mark.parametrize(
    ("ttl", "least", "most", "queries"), [(0, 30, 60, 1), (0, 0.0, 60, 2), (3600, 0.0, 0.0, 2)]
)
def test_the_ttl_counts_between_its_bounds(dns, resolver, monkeypatch, ttl, least, most, queries):
    monkeypatch.setattr(module, "LEAST_TTL_S", least)
    monkeypatch.setattr(module, "MOST_TTL_S", most)
    dns.at("a.test", ["127.0.0.1"], ttl=ttl)
    for _ in range(2):
        resolver.addresses("a.test", Deadline(1))
    assert len(dns.asked) == queries


def test_many_threads_share_one_query(dns, resolver):
    dns.at("slow.test", ["127.0.0.1"], delay_s=0.2)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(resolver.addresses("slow.test", Deadline(2))))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [("127.0.0.1",)] * 16
    assert len(dns.asked) == 1


def test_a_query_that_was_cut_short_is_not_the_answer_for_others(dns, resolver):
    dns.at("slow.test", ["127.0.0.1"], delay_s=0.3)
    hasty = threading.Thread(target=failure, args=(resolver, "slow.test", 0.1))
    hasty.start()
    time.sleep(0.03)
    assert resolver.addresses("slow.test", Deadline(2)) == ("127.0.0.1",)
    hasty.join()


@pytest.mark.parametrize("how", ["missing", "failing", "silent", "garbage", "empty"])
def test_no_address_is_remembered_for_a_while(dns, resolver, how):
    host = f"{how}.test"
    if how == "empty":
        dns.at(host, [])
    elif how != "missing":
        getattr(dns, how)(host)
    assert failure(resolver, host).outcome is Outcome.DNS
    asked = len(dns.asked)
    assert asked >= 1
    assert failure(resolver, host, 0.05).outcome is Outcome.DNS
    assert len(dns.asked) == asked


def test_a_dead_name_server_ends_with_the_deadline():
    # Nothing listens there; and nobody is asked twice within the deadline's grace.
    assert failure(Resolver(["127.0.0.1:1"]), "a.test", 0.3).outcome is Outcome.DNS


def test_the_cache_is_bounded(dns, resolver, monkeypatch):
    monkeypatch.setattr(module, "_HOSTS", 3)
    for i in range(8):
        resolver.addresses(dns.at(f"{i}.test", ["127.0.0.1"]), Deadline(1))
    assert len(resolver._known) == 3
    assert not resolver._asking


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("10.0.0.1.", "10.0.0.1"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:7f00:1"),
        ("example.org", None),
        ("1e100.net", None),
        ("under_score.example", None),
    ],
)
def test_addresses_in_every_spelling_need_no_server(host, address):
    assert literal_address(host) == address


@pytest.mark.parametrize(
    "host", ["", "a b", "a..b", "1.2.3.4.5", "999.1.1.1", "1::2::3", "a%00.test", "x" * 64, "a\r.b"]
)
def test_what_cannot_be_a_host(host):
    with pytest.raises(FetchError) as error:
        literal_address(host)
    assert error.value.outcome is Outcome.INVALID_URL


def test_localhost_is_never_asked_for(dns, resolver):
    assert resolver.addresses("localhost", Deadline(1)) == ("127.0.0.1",)
    assert resolver.addresses("a.localhost", Deadline(1)) == ("127.0.0.1",)
    assert dns.asked == []


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 53),
        ("192.0.2.1:5353", "192.0.2.1", 5353),
        ("[2001:db8::1]", "2001:db8::1", 53),
        ("[2001:db8::1]:5353", "2001:db8::1", 5353),
        ("2001:db8::1", "2001:db8::1", 53),
    ],
)
def test_name_servers(text, address, port):
    (server,) = Resolver([text])._servers
    assert (server.address, server.port) == (address, port)


def test_a_name_server_must_be_an_address():
    with pytest.raises(ValueError, match=r"'dns\.example' is not an IP address: write"):
        Resolver(["dns.example"])
