"""Every attack on the fetch ends in its outcome, in time and in little memory.

One client process, with the network 127.0.0.1/32 allowed and a deadline of a second, fetches all of
them; 127.0.0.2 stands for an internal host, which must never see a connection.
"""

import contextlib
import gzip
import io
import json
import os
import ssl
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from hostile import (
    HEAD,
    PNG,
    FullBacklog,
    HostileServer,
    chunked,
    drips,
    floods,
    full,
    redirect,
    resets,
    sends,
    silent,
)
from stub_dns import StubDns

from pipelines.crawl.config import HttpConfig
from pipelines.crawl.http import resolver
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.connect import Connector, Target
from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.outcomes import Outcome

SUPPORT = Path(__file__).parents[1] / "support"
DEADLINE_S = 1.0
MAX_BYTES = 20_000_000
BAD, UNSAFE, OK = Outcome.BAD_RESPONSE, Outcome.UNSAFE_ADDRESS, Outcome.OK

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIPPED = "Content-Encoding: gzip"


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", content)
    return stream.getvalue()


def bomb(levels=1):
    body = gzip.compress(PNG + bytes(100_000_000), 6)
    for _ in range(levels - 1):
        body = gzip.compress(body)
    return body


# Path on the hostile server: (what it does, how the fetch ends).
RESPONSES = {
    "fine": (full(PNG), OK),
    "chunks": (chunked([PNG[:5], PNG[5:], b""]), OK),
    "until_close": (HEAD + b"\r\n" + PNG, OK),
    "lines_end_in_lf": (HEAD.replace(b"\r", b"") + b"\n" + PNG, OK),
    "early_hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + full(PNG), OK),
    "more_than_announced": (full(PNG) + b"HTTP/1.1 200 OK\r\n" * 9, OK),
    "gzip_members": (full(gzip.compress(PNG[:9]) + gzip.compress(PNG[9:]), GZIPPED), OK),
    "zlib": (full(zlib.compress(PNG), "Content-Encoding: deflate"), OK),
    # Sizes
    "header_flood": (floods(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 4096), BAD),
    "header_without_end": (floods(b"HTTP/1.1 200 OK\r\nX-A: "), BAD),
    "interim_without_end": (floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999), BAD),
    "status_line_without_end": (floods(b"HTTP/1.1 200 ", b"x" * 9999), BAD),
    "chunk_extension_flood": (floods(CHUNKED + b"5;a=", b"x" * 9999), BAD),
    "trailer_flood": (floods(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 4096), BAD),
    "tiny_chunks": (floods(CHUNKED + b"6c\r\n" + PNG + b"\r\n", b"1;aaaaa\r\nx\r\n" * 4096), BAD),
    "gzip_bomb": (full(bomb(), GZIPPED), Outcome.TOO_LARGE),
    "gzip_bomb_twice": (full(bomb(2), GZIPPED), Outcome.NOT_AN_IMAGE),
    "gzip_in_gzip_announced": (full(bomb(2), "Content-Encoding: gzip, gzip"), BAD),
    "zip_in_gzip": (full(gzip.compress(zipped(PNG)), GZIPPED), Outcome.NOT_AN_IMAGE),
    "zeros": (floods(HEAD + b"\r\n"), Outcome.NOT_AN_IMAGE),
    "zeros_after_png": (floods(HEAD + b"\r\n" + PNG), Outcome.TOO_LARGE),
    "zeros_announced": (floods(HEAD + b"Content-Length: 600000000\r\n\r\n"), Outcome.TOO_LARGE),
    "zeros_in_chunks": (
        floods(CHUNKED + b"6c\r\n" + PNG + b"\r\n", b"10000\r\n" + bytes(65536) + b"\r\n"),
        Outcome.TOO_LARGE,
    ),
    # Slowness
    "slow_status": (drips(b"HTT", b"P"), BAD),
    "slow_reason": (drips(b"HTTP/1.1 200 O", b"K"), Outcome.TIMEOUT),
    "slow_headers": (drips(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), Outcome.TIMEOUT),
    "slow_header_value": (drips(b"HTTP/1.1 200 OK\r\nX-A: "), Outcome.TIMEOUT),
    "slow_interim": (drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), Outcome.TIMEOUT),
    "slow_body": (drips(HEAD + b"\r\n" + PNG), Outcome.TIMEOUT),
    "slow_first_bytes": (drips(HEAD + b"\r\n\x89"), Outcome.TIMEOUT),
    "slow_announced_body": (drips(HEAD + b"Content-Length: 9999\r\n\r\n"), Outcome.TIMEOUT),
    "slow_chunk_size": (drips(CHUNKED, b"0"), Outcome.TIMEOUT),
    "slow_chunk_extension": (drips(CHUNKED + b"5;a="), Outcome.TIMEOUT),
    "slow_trailer": (drips(CHUNKED + b"0\r\n", b"X-A: b\r\n"), Outcome.TIMEOUT),
    "slow_gzip": (drips(HEAD + b"Content-Encoding: gzip\r\n\r\n", b"\x1f"), BAD),
    "silence": (silent, Outcome.TIMEOUT),
    "silence_after_head": (
        lambda conn: (conn.sendall(HEAD + b"Content-Length: 50\r\n\r\n"), silent(conn)),
        Outcome.TIMEOUT,
    ),
    # Wrong lengths
    "too_short": (HEAD + b"Content-Length: 500\r\n\r\n" + PNG, BAD),
    "lengths_differ": (HEAD + b"Content-Length: 108\r\nContent-Length: 9\r\n\r\n" + PNG, BAD),
    "length_list": (HEAD + b"Content-Length: 108, 9\r\n\r\n" + PNG, BAD),
    "negative_length": (HEAD + b"Content-Length: -1\r\n\r\n" + PNG, BAD),
    "length_overflow": (HEAD + b"Content-Length: %d\r\n\r\n" % 2**70 + PNG, BAD),
    "length_and_chunks": (
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "chunk_overflow": (CHUNKED + b"f" * 17 + b"\r\n" + PNG, BAD),
    "chunk_garbage": (CHUNKED + b"xyz\r\n" + PNG, BAD),
    "chunks_end_early": (chunked([PNG]), BAD),
    "gzip_ends_early": (full(gzip.compress(PNG)[:-9], GZIPPED), BAD),
    "gzip_garbage": (full(PNG, GZIPPED), BAD),
    "gzip_then_garbage": (full(gzip.compress(PNG) + b"garbage", GZIPPED), BAD),
    "brotli": (full(PNG, "Content-Encoding: br"), BAD),
    "odd_transfer_coding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    # Broken connections
    "closed_at_once": (b"", BAD),
    "closed_in_head": (b"HTTP/1.1 200 OK\r\nContent-", BAD),
    "reset_in_head": (resets(b"HTTP/1.1 200 OK\r\n"), BAD),
    "reset_in_body": (resets(HEAD + b"Content-Length: 999\r\n\r\n" + PNG), BAD),
    "half_closed": (
        lambda conn: (conn.sendall(HEAD), conn.shutdown(1), silent(conn)),
        BAD,
    ),
    # Not HTTP, not a picture
    "http_0_9": (PNG, BAD),
    "garbage": (bytes(range(256)) * 40, BAD),
    "http_2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD),
    "switched": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + PNG,
        BAD,
    ),
    "a_part": (full(PNG, status="206 Partial Content"), BAD),
    "html": (full(b"<!doctype html><title>x</title>" * 9), Outcome.NOT_AN_IMAGE),
    "svg": (full(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 9), Outcome.NOT_AN_IMAGE),
    "empty": (full(b""), Outcome.NOT_AN_IMAGE),
    "nul_in_header": (b"HTTP/1.1 200 OK\r\nX-\0: a\r\n\r\n" + PNG, BAD),
    # Redirects
    "loop": (redirect("/loop"), Outcome.TOO_MANY_REDIRECTS),
    "to_file": (redirect("file:///etc/passwd"), Outcome.INVALID_URL),
    "to_data": (redirect("data:image/png;base64,AAAA"), Outcome.INVALID_URL),
    "to_nothing": (redirect("http://:80/"), Outcome.INVALID_URL),
    "to_brackets": (redirect("http://[x"), Outcome.INVALID_URL),
    "to_long": (redirect("/" + "x" * 9000), Outcome.INVALID_URL),
    "to_metadata": (redirect("http://169.254.169.254/latest/"), UNSAFE),
    "to_closed": (redirect("/closed/a.png"), Outcome.OPTED_OUT),
}  # fmt: skip

# Hosts that only internal machines have, in every spelling; {port} is where one listens.
INTERNAL = {
    "loopback": "127.0.0.2:{port}",
    "decimal": "2130706434:{port}",
    "hexadecimal": "0x7f.2:{port}",
    "octal": "0177.0.0.02:{port}",
    "short": "127.2:{port}",
    "final_dot": "127.0.0.2.:{port}",
    "full_width": "１２７.0.0.2:{port}",
    "user": "127.0.0.1@127.0.0.2:{port}",
    "user_and_password": "127.0.0.1:80@127.0.0.2:{port}",
    "backslash": "127.0.0.1\\@127.0.0.2:{port}",
    "mapped": "[::ffff:127.0.0.2]:{port}",
    "compatible": "[::127.0.0.2]:{port}",
    "six_to_four": "[2002:7f00:2::1]:{port}",
    "nat64": "[64:ff9b::7f00:2]:{port}",
    "teredo": "[2001:0:4136:e378:8000:63bf:80ff:fffd]:{port}",
    "isatap": "[2620:0:1:2:0:5efe:7f00:2]:{port}",
    "loopback_6": "[::1]:{port}",
    "this_host": "0.0.0.0:{port}",
    "private": "10.0.0.1",
    "shared": "100.64.0.1",
    "multicast": "224.0.0.1",
    "link_local": "169.254.169.254",
    "wrong_port": "8.8.8.8:25",
    "name": "internal.test:{port}",
    "mixed_name": "mixed.test:{port}",
    "name_6": "mapped.test:{port}",
    "localhost_6": "six.test:{port}",
}

OTHER_URLS = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1/a.png",
    "gopher": "gopher://127.0.0.1/a.png",
    "no_scheme": "127.0.0.1/a.png",
    "no_host": "http:///a.png",
    "bad_port": "http://127.0.0.1:99999/a.png",
    "port_zero": "http://127.0.0.1:0/a.png",
    "five_numbers": "http://1.2.3.4.5/a.png",
    "space": "http://127.0.0.1 .test/a.png",
    "long": "http://127.0.0.1/" + "a" * 10_000,
}


class Arena:
    """All servers, and what is expected of each URL."""

    def __init__(self, folder, close):
        self.urls, self.expected = {}, {}
        self.hostile, self.internal = HostileServer(), HostileServer("127.0.0.2")
        self.dns = StubDns()
        for each in (self.hostile, self.internal, self.dns):
            close.callback(each.close)
        self._close = close
        self._add_responses()
        self._add_internal()
        self._add_names()
        self._add_tls(folder)
        self._add_policies()
        backlog = FullBacklog()
        close.callback(backlog.close)
        self.expect("connect_backlog", backlog.url, Outcome.CONNECT)
        self.expect("port_one", "http://127.0.0.1:1/a.png", Outcome.CONNECT)

    def expect(self, name, url, outcome):
        assert name not in self.urls
        self.urls[name], self.expected[name] = url, outcome

    def server(self, **options):
        server = HostileServer(**options)
        self._close.callback(server.close)
        return server

    def _add_responses(self):
        robots = b"User-agent: *\nDisallow: /closed/\n"
        self.hostile.add("/robots.txt", full(robots))
        self.hostile.add("/closed/a.png", full(PNG))
        for name, (attack, outcome) in RESPONSES.items():
            self.expect(name, self.hostile.add(f"/{name}", attack), outcome)
        self.expect("closed", f"{self.hostile.url}/closed/a.png", Outcome.OPTED_OUT)

    def _add_internal(self):
        self.dns.at("internal.test", ["127.0.0.2"])
        self.dns.at("mixed.test", ["127.0.0.1", "127.0.0.2"])
        self.dns.at("mapped.test", ["::ffff:127.0.0.2"])
        self.dns.at("six.test", ["::1"])
        for name, host in INTERNAL.items():
            url = f"http://{host.format(port=self.internal.port)}/a.png"
            self.expect(f"internal_{name}", url, UNSAFE)
            self.expect(f"to_{name}", self.hostile.add(f"/to_{name}", redirect(url)), UNSAFE)
        for name, url in OTHER_URLS.items():
            self.expect(name, url, Outcome.INVALID_URL)

    def _add_names(self):
        port = self.hostile.port
        for how in ("silent", "garbage", "failing"):
            getattr(self.dns, how)(f"{how}.test")
            self.expect(f"dns_{how}", f"http://{how}.test:{port}/fine", Outcome.DNS)
        self.expect("dns_missing", f"http://missing.test:{port}/fine", Outcome.DNS)
        self.dns.at("named.test", ["127.0.0.1"])
        self.expect("name", f"http://named.test:{port}/fine", OK)
        self.dns.at("slow.test", ["127.0.0.1"], delay_s=0.8)
        self.expect("dns_slow_then_slow", f"http://slow.test:{port}/slow_body", Outcome.TIMEOUT)
        # The first answer is fine, every later one is not; the port is that of the internal host,
        # where the address that was checked has nobody.
        self.dns.at("rebound.test", ["127.0.0.1"], ["127.0.0.2"])
        url = f"http://rebound.test:{self.internal.port}/a.png"
        self.expect("dns_rebinding", url, Outcome.CONNECT)

    def _add_tls(self, folder):
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        past = datetime(2020, 1, 1, tzinfo=UTC)
        certificates = {
            "good": (authority.issue_cert("127.0.0.1", "secure.test"), OK),
            "other_name": (authority.issue_cert("other.test"), Outcome.TLS),
            "expired": (authority.issue_cert("127.0.0.1", not_after=past), Outcome.TLS),
            "stranger": (trustme.CA().issue_cert("127.0.0.1"), Outcome.TLS),
        }
        for name, (certificate, outcome) in certificates.items():
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(context)
            server = self.server(tls=context)
            self.expect(f"tls_{name}", server.add("/a.png", full(PNG)), outcome)
            if name == "good":
                plain = redirect(f"{self.hostile.url}/fine")
                self.expect("https_to_http", server.add("/down", plain), UNSAFE)
                large = server.add("/large", full(PNG + bytes(3_000_000)))
                self.expect("tls_large", large, OK)
                self.expect("tls_slow", server.add("/slow", drips(HEAD)), Outcome.TIMEOUT)
                self.dns.at("secure.test", ["127.0.0.1"])
                url = server.add("/a.png", full(PNG)).replace("127.0.0.1", "secure.test")
                self.expect("tls_name", url, OK)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        context.num_tickets = 100_000_000  # records without data, as fast as they can be made
        server = self.server(tls=context)
        self.expect("tls_tickets", server.add("/a.png", full(PNG)), Outcome.ROBOTS_UNREACHABLE)
        handshakes = {
            "silent": (silent, Outcome.ROBOTS_UNREACHABLE),
            "drip": (drips(b"\x16\x03\x03\x3f\xff", b"\x02"), Outcome.ROBOTS_UNREACHABLE),
            "plain": (sends(full(PNG)), Outcome.TLS),
            "reset": (resets(b""), Outcome.CONNECT),
        }
        for name, (attack, outcome) in handshakes.items():
            server = self.server()
            server.on_connect = attack
            url = server.url.replace("http:", "https:")
            self.expect(f"tls_handshake_{name}", f"{url}/a.png", outcome)

    def _add_policies(self):
        policies = {
            "drip": (drips(b"HTTP/1.1 200 OK\r\n\r\nUser"), Outcome.ROBOTS_UNREACHABLE),
            "broken": (full(b"", status="500 Oops"), Outcome.ROBOTS_UNREACHABLE),
            "short": (HEAD + b"Content-Length: 9\r\n\r\nUser", Outcome.ROBOTS_UNREACHABLE),
            "loop": (redirect("/robots.txt"), Outcome.ROBOTS_UNREACHABLE),
            "closed": (full(b"User-agent: *\nDisallow: /\n"), Outcome.OPTED_OUT),
            # 512 KiB of it are read, and they decide.
            "flood": (floods(b"HTTP/1.1 200 OK\r\n\r\n", b"# nothing\n" * 999), OK),
            "closed_flood": (
                floods(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /\n", b"# more\n" * 999),
                Outcome.OPTED_OUT,
            ),
            "gzip_bomb": (full(gzip.compress(b"# nothing\n" * 5_000_000), GZIPPED), OK),
            "internal": (redirect(f"{self.internal.url}/x"), Outcome.ROBOTS_UNREACHABLE),
        }
        self.forbidding = []
        for name, (attack, outcome) in policies.items():
            server = self.server()
            server.add("/robots.txt", attack)
            self.expect(f"robots_{name}", server.add("/a.png", full(PNG)), outcome)
            if outcome is not OK:
                self.forbidding.append(server)
        for name, header in {"robots": "X-Robots-Tag: noai", "tdm": "TDM-Reservation: 1"}.items():
            big = sends(HEAD + header.encode() + b"\r\n\r\n" + PNG)
            self.expect(f"header_{name}", self.hostile.add(f"/h_{name}", big), Outcome.OPTED_OUT)
        tdmrep = self.server()
        reserved = json.dumps([{"location": "/", "tdm-reservation": 1}]).encode()
        tdmrep.add("/.well-known/tdmrep.json", full(reserved))
        self.expect("tdmrep", tdmrep.add("/a.png", full(PNG)), Outcome.OPTED_OUT)
        self.forbidding.append(tdmrep)

    def config(self):
        return HttpConfig(
            contact="mailto:tests@localhost",
            deadline_s=DEADLINE_S,
            max_bytes=MAX_BYTES,
            retries=0,
            allow_networks=("127.0.0.1/32",),
            nameservers=(self.dns.nameserver,),
            ca_file=self.ca_file,
            domain_connections=100,
            domain_delay_s=0.0,
        )


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
    assert 2.9 < time.monotonic() - started < 4.5


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
    # A deadline of its own and one more for what it waited.
    assert time.monotonic() - started < 2 * DEADLINE_S + 0.4


def test_an_ipv6_address_is_fetched_from_where_allowed(arena):
    try:
        server = arena.server(address="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    url = server.add("/a.png", full(PNG))
    assert get(replace(arena.config(), allow_networks=("::1/128",)), url).outcome is OK
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[-1]
    assert get(arena.config(), url).outcome is UNSAFE
