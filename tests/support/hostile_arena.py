"""Every hostile server at once, and what is expected of each of their URLs."""

import gzip
import json
import ssl
from datetime import UTC, datetime

import trustme
from hostile import (
    HEAD,
    PNG,
    FullBacklog,
    HostileServer,
    drips,
    floods,
    full,
    redirect,
    resets,
    sends,
    silent,
)
from hostile_answers import GZIPPED, OK, RESPONSES, UNSAFE
from stub_dns import StubDns

from pipelines.crawl.config import HttpConfig
from pipelines.crawl.http.outcomes import Outcome

DEADLINE_S = 1.0
MAX_BYTES = 20_000_000

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
