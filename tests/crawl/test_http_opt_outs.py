import hashlib
import threading

import pytest
from http_gets import PNG, POLICY, get

from pipelines.crawl.consent.takedown import read_takedown
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.outcomes import Outcome


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
