import gzip
import time
from dataclasses import replace

import pytest
from http_gets import PNG, POLICY, get

from pipelines.crawl.http.client import sniff_image
from pipelines.crawl.http.outcomes import Outcome


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
    # The drip alone takes four seconds.
    assert time.monotonic() - start < 3.5
