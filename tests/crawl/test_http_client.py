import gzip
import hashlib
import socket
import threading
import time
from dataclasses import replace
from multiprocessing.pool import ThreadPool

import pytest
from hostile import HostileServer, full, redirect

from pipelines.crawl.consent.takedown import read_takedown
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.connect import is_allowed
from pipelines.crawl.http.outcomes import Outcome

POLICY = ["/robots.txt", "/.well-known/tdmrep.json"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
def hosts():
    """Makes servers at given addresses."""
    made = []

    def make(address):
        made.append(HostileServer(address))
        return made[-1]

    yield make
    for server in made:
        server.close()


def after(seconds, answer):
    def attack(conn):
        time.sleep(seconds)
        conn.sendall(answer)

    return attack


def get(config, url):
    return HttpClient(config).get(url, sniff_image, Outcome.NOT_AN_IMAGE)


def test_the_bytes_come_as_they_are(site, http_config):
    got = get(http_config, site.serve("/a.png", PNG))
    assert (got.outcome, got.body, got.mime, got.status, got.attempts) == (
        Outcome.OK, PNG, "image/png", 200, 1,
    )  # fmt: skip
    assert site.asked == [*POLICY, "/a.png"]


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"\0\0\0\x1cftypavif", "image/avif"),
        (b"\0\0\0\x1cftypavis", "image/avif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "image/avif"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", None),
        (b"\0\0\0\x1cftypisom", None),
        (b"<svg xmlns", None),
        (b"", None),
    ],
)
def test_types_by_first_bytes(head, mime):
    assert sniff_image(head) == mime


@pytest.mark.parametrize(
    ("status", "outcome", "asked"),
    [
        (404, Outcome.NOT_FOUND, 1),
        (410, Outcome.NOT_FOUND, 1),
        (403, Outcome.HTTP_4XX, 1),
        (429, Outcome.THROTTLED, 2),
        (503, Outcome.THROTTLED, 2),
        (500, Outcome.HTTP_5XX, 2),
    ],
)
def test_statuses_and_retries(site, http_config, status, outcome, asked):
    got = get(http_config, site.serve("/a.png", b"", status))
    assert (got.outcome, got.status, got.attempts) == (outcome, status, asked)
    assert site.asked.count("/a.png") == asked
    assert got.outcome.retryable == (asked == 2)


def test_html_behind_an_image_address_is_refused(site, http_config):
    got = get(http_config, site.serve("/a.png", b"<!doctype html>" * 9, Content_Type="image/png"))
    assert got.outcome is Outcome.NOT_AN_IMAGE
    assert got.body is None


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_not_read_to_its_end(site, http_config, declared):
    sent = 0

    def reply(handler):
        nonlocal sent
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", "900000000")
        handler.end_headers()
        for _ in range(9000):
            sent += handler.wfile.write(PNG + bytes(100_000))

    site.replies["/big.png"] = reply
    got = get(http_config, f"{site.url}/big.png")
    assert got.outcome is Outcome.TOO_LARGE
    assert sent < 50_000_000


def test_a_gzip_bomb_stops_at_the_limit(site, http_config):
    bomb = gzip.compress(PNG + bytes(50_000_000))
    got = get(http_config, site.serve("/b.png", bomb, Content_Encoding="gzip"))
    assert got.outcome is Outcome.TOO_LARGE
    fine = gzip.compress(PNG)
    assert get(http_config, site.serve("/c.png", fine, Content_Encoding="gzip")).body == PNG


def test_a_short_body_is_no_image(site, http_config):
    got = get(http_config, site.serve("/a.png", PNG, Content_Length="5000"))
    assert got.outcome is Outcome.BAD_RESPONSE


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_slow_drip_ends_at_the_deadline(site, http_config, where):
    def reply(handler):
        drip = b"HTTP/1.1 200 OK\r\n" if where == "head" else b"HTTP/1.1 200 OK\r\n\r\n" + PNG
        handler.wfile.write(drip)
        for _ in range(40):
            handler.wfile.write(b"X")
            time.sleep(0.1)

    site.replies["/slow.png"] = reply
    config = replace(http_config, deadline_s=0.5, retries=0)
    start = time.monotonic()
    got = get(config, f"{site.url}/slow.png")
    assert got.outcome is Outcome.TIMEOUT
    assert time.monotonic() - start < 1.5


def test_redirects_are_followed_and_counted(site, http_config):
    site.serve("/0.png", PNG)
    for i in range(1, 8):
        site.serve(f"/{i}.png", b"", 302, Location=f"/{i - 1}.png")
    followed = get(http_config, f"{site.url}/5.png")
    assert (followed.outcome, followed.url) == (Outcome.OK, f"{site.url}/0.png")
    assert get(http_config, f"{site.url}/6.png").outcome is Outcome.TOO_MANY_REDIRECTS


@pytest.mark.parametrize(
    ("target", "outcome"),
    [
        ("http://10.0.0.1/a.png", Outcome.UNSAFE_ADDRESS),
        ("http://169.254.169.254/latest/", Outcome.UNSAFE_ADDRESS),
        ("http://[::ffff:127.0.0.1]/a.png", Outcome.UNSAFE_ADDRESS),
        ("file:///etc/passwd", Outcome.INVALID_URL),
        ("ftp://127.0.0.1/a.png", Outcome.INVALID_URL),
    ],
)
def test_redirects_out_of_bounds(site, http_config, target, outcome):
    got = get(http_config, site.serve("/a.png", b"", 301, Location=target))
    assert (got.outcome, got.status, got.attempts, got.body) == (outcome, 301, 1, None)


def test_loopback_is_refused_unless_allowed(site, http_config):
    url = site.serve("/a.png", PNG)
    got = get(replace(http_config, allow_networks=()), url)
    assert (got.outcome, got.attempts) == (Outcome.UNSAFE_ADDRESS, 0)
    assert site.asked == []


def test_ports_are_those_of_the_web_outside_allowed_networks(http_config):
    config = replace(http_config, ports=(80, 443), deadline_s=0.2, retries=0)
    got = get(config, "http://8.8.8.8:25/a.png")
    assert (got.outcome, got.attempts) == (Outcome.UNSAFE_ADDRESS, 0)
    assert got.detail == "port 25 of 8.8.8.8: only 80, 443 may be connected to"


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "10.1.2.3", "[::1]"])
def test_an_address_that_is_not_public_is_named_before_its_port(http_config, host):
    for networks in ((), ("192.0.2.0/24",)):
        got = get(replace(http_config, allow_networks=networks), f"http://{host}:5432/a.png")
        assert (got.outcome, got.attempts) == (Outcome.UNSAFE_ADDRESS, 0)
        assert got.detail.endswith("which is not a public address")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:8.8.8.8", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("2001:db8::1", False),
        ("2620:0:1:2:0:5efe:7f00:1", False),
        ("::7f00:1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("192.0.0.8", False),
        ("192.88.99.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_addresses(address, allowed):
    assert is_allowed(address, ()) is allowed


def test_an_opt_out_leaves_the_body_unread(site, http_config):
    site.serve("/robots.txt", b"User-agent: dalle-graph\nDisallow: /closed/\n")
    site.serve("/closed/a.png", PNG)
    forbidden = get(http_config, f"{site.url}/closed/a.png")
    assert (forbidden.outcome, forbidden.attempts) == (Outcome.OPTED_OUT, 0)
    assert forbidden.opt_out.signal == "robots_txt"
    assert site.asked == POLICY
    tagged = get(http_config, site.serve("/b.png", PNG, X_Robots_Tag="noindex, noimageai"))
    assert (tagged.outcome, tagged.body) == (Outcome.OPTED_OUT, None)
    assert tagged.opt_out == ("x_robots_tag", "noindex, noimageai")


@pytest.mark.parametrize(
    "path",
    ["/a/../private/x.png", "/a/%2e%2e/private/x.png", "/./private/x.png", "/%70rivate/x.png"],
)
@pytest.mark.parametrize("redirected", [False, True])
def test_a_closed_folder_is_closed_in_every_spelling(site, http_config, path, redirected):
    site.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    url = site.url + path
    if redirected:
        url = site.serve("/to.png", b"", 302, Location=path)
    got = get(http_config, url)
    assert (got.outcome, got.opt_out.signal) == (Outcome.OPTED_OUT, "robots_txt")
    assert site.asked == POLICY + ["/to.png"] * redirected


def test_the_path_that_was_checked_is_the_one_that_is_sent(site, http_config):
    site.serve("/robots.txt", b"User-agent: *\nDisallow: /private/\n")
    site.serve("/open/x.png", PNG)
    for path in ("/private/../open/x.png", "/a/%2E%2e/open/./x.png", "/open/%78.png"):
        got = get(http_config, site.url + path)
        assert (got.outcome, got.url) == (Outcome.OK, f"{site.url}/open/x.png")
        assert site.asked[-1] == "/open/x.png"


def test_details_and_opt_outs_are_printable(site, http_config):
    rules = "User-agent: *\nDisallow: /*\x1b[2J\x85\u202e\n".encode()
    site.serve("/robots.txt", rules)
    got = get(http_config, site.serve("/a%1B[2J%C2%85%E2%80%AE.png", PNG))
    assert got.opt_out.text.endswith(r"Disallow: /*\x1b[2J\x85\x202e")
    assert got.detail.isprintable()
    assert r"\x1b[2J\x85" in got.detail
    site.serve("/robots.txt", b"")

    def odd(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noai,\xc2\x85\xe2\x80\xae\r\n\r\n")

    site.replies["/odd.png"] = odd
    got = get(http_config, f"{site.url}/odd.png")
    assert (got.opt_out.text, got.detail) == (
        r"noai,\x85\x202e", r"x_robots_tag: noai,\x85\x202e",
    )  # fmt: skip


def test_a_redirect_into_a_closed_folder_is_not_followed(site, http_config):
    site.serve("/robots.txt", b"User-agent: *\nDisallow: /closed/\n")
    got = get(http_config, site.serve("/a.png", b"", 302, Location="/closed/a.png"))
    assert got.outcome is Outcome.OPTED_OUT
    assert "/closed/a.png" not in site.asked


def test_a_broken_robots_file_means_no(site, http_config):
    site.serve("/robots.txt", b"", 503)
    got = get(http_config, site.serve("/a.png", PNG))
    assert (got.outcome, got.outcome.retryable) == (Outcome.ROBOTS_UNREACHABLE, True)
    assert "/a.png" not in site.asked


def test_robots_is_asked_for_once_by_many_threads(site, http_config):
    url = site.serve("/a.png", PNG)
    client = HttpClient(http_config)
    threads = [
        threading.Thread(target=client.get, args=(url, sniff_image, Outcome.NOT_AN_IMAGE))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.asked.count("/robots.txt") == 1
    assert site.asked.count("/a.png") == 12


def test_a_host_is_left_its_pause(site, http_config):
    client = HttpClient(replace(http_config, domain_delay_s=0.15))
    url = site.serve("/a.png", PNG)
    start = time.monotonic()
    for _ in range(3):
        assert client.get(url, sniff_image, Outcome.NOT_AN_IMAGE).outcome is Outcome.OK
    assert time.monotonic() - start >= 0.45


def test_what_the_takedown_list_names_is_neither_asked_for_nor_kept(site, http_config, tmp_path):
    kept, other = PNG + b"kept", PNG + b"unwanted"
    urls = {name: site.serve(f"/{name}.png", kept) for name in ("a", "b")}
    urls["c"] = site.serve("/c.png", other)
    urls["to_b"] = site.serve("/to_b.png", b"", 302, Location="/b.png")
    path = tmp_path / "takedown.txt"
    path.write_text(f"{urls['b']}\n{hashlib.sha256(other).hexdigest()}\n")
    client = HttpClient(http_config, read_takedown(str(path)))
    got = {n: client.get(url, sniff_image, Outcome.NOT_AN_IMAGE) for n, url in urls.items()}
    assert got["a"].body == kept
    for name, attempts in {"b": 0, "c": 1, "to_b": 1}.items():
        assert (got[name].outcome, got[name].attempts) == (Outcome.OPTED_OUT, attempts)
        assert (got[name].opt_out.signal, got[name].body) == ("takedown_list", None)
    assert "/b.png" not in site.asked


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


def test_an_encoded_path_reaches_the_server_in_one_spelling(site, http_config):
    site.serve("/%C3%A4%20b.png?q=%C3%A4", PNG)
    assert get(http_config, f"{site.url}/ä b.png?q=ä#part").outcome is Outcome.OK


def test_a_wrong_ca_file_is_said_at_once(http_config):
    with pytest.raises(ValueError, match=r"ca_file '/nowhere\.pem' is not readable"):
        HttpClient(replace(http_config, ca_file="/nowhere.pem"))


def test_nobody_there(http_config):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.png"
        got = get(http_config, url)
    assert (got.outcome, got.attempts, got.opt_out) == (Outcome.CONNECT, 1, None)
    assert get(http_config, "http://127.0.0.1:99999/a.png").outcome is Outcome.INVALID_URL
