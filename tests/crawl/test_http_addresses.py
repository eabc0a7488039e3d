import socket
from dataclasses import replace

import pytest
from http_gets import PNG, get

from pipelines.crawl.http.client import HttpClient
from pipelines.crawl.http.connect import is_allowed
from pipelines.crawl.http.outcomes import Outcome


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
