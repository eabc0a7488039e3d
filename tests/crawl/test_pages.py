import gzip
import time
import zlib

import pytest

from pipelines.crawl.batches import Source, SourceKind
from pipelines.crawl.found import Problem
from pipelines.crawl.http.client import HttpClient
from pipelines.crawl.sources.pages import (
    MAX_PAGE_BYTES,
    SitemapError,
    html_files,
    page_rows,
    read_html_file,
    read_web_page,
    sitemap_pages,
)
from pipelines.crawl.sources.parser_process import PageError

XML = "<?xml version='1.0'?>"


def sitemap(*locations: str, kind: str = "urlset", item: str = "url") -> bytes:
    listed = "".join(f"<{item}>\n<loc> {loc} </loc></{item}>" for loc in locations)
    schema = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'{XML}<{kind} xmlns="{schema}">{listed}</{kind}>'.encode()


def test_sitemaps_of_sitemaps_are_followed_in_order(site, http_config):
    site.serve("/a.xml.gz", gzip.compress(sitemap(f"{site.url}/1", "/2?a=1&amp;b=2")))
    site.serve("/b.xml", sitemap("<![CDATA[/3?a&b]]>"), Content_Type="application/xml")
    index = sitemap(f"{site.url}/a.xml.gz", "b.xml", kind="sitemapindex", item="sitemap")
    site.serve("/index.xml", index, Content_Type="text/xml")
    assert sitemap_pages(f"{site.url}/index.xml", HttpClient(http_config)) == [
        f"{site.url}/1",
        f"{site.url}/2?a=1&b=2",
        f"{site.url}/3?a&b",
    ]


def test_pictures_of_an_image_sitemap_are_no_pages(site, http_config):
    body = sitemap("/1</loc><image:image><image:loc>/p.png</image:loc></image:image><loc>/2")
    url = site.serve("/s.xml", body)
    pages = sitemap_pages(url, HttpClient(http_config))
    assert pages == [f"{site.url}/1", f"{site.url}/2"]


def test_entities_are_not_expanded(site, http_config):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    url = site.serve("/s.xml", (XML + bomb).encode() + sitemap("/&a;/", "/&f;/")[len(XML) :])
    assert sitemap_pages(url, HttpClient(http_config)) == [f"{site.url}/&a;/", f"{site.url}/&f;/"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (gzip.compress(b"<urlset>" + b" " * (60 << 20)), "unpacks to more than 50 MB"),
        (gzip.compress(sitemap("/1"))[:-9], "ends early"),
        (b"\x1f\x8b" + zlib.compress(b"x"), "is broken gzip"),
        (b"<html>no</html>", "is not a sitemap"),
        (gzip.compress(b"<urlset>" + b"<loc>a</loc>" * 50_001), "more than the 50,000 addresses"),
    ],
    ids=["bomb", "short", "broken", "html", "addresses"],
)
def test_what_is_no_sitemap_is_named(body, why, site, http_config):
    url = site.serve("/s.xml", body, Content_Type="application/xml")
    with pytest.raises(SitemapError, match=why):
        sitemap_pages(url, HttpClient(http_config))


def test_sitemaps_and_pages_listed_again_are_read_once(site, http_config):
    index = sitemap("/s.xml", "/a.xml", "/a.xml", kind="sitemapindex", item="sitemap")
    url = site.serve("/s.xml", index)
    site.serve("/a.xml", sitemap("/1", "/2", "", "/1"))
    assert sitemap_pages(url, HttpClient(http_config)) == [f"{site.url}/1", f"{site.url}/2"]


def test_a_listed_sitemap_that_fails_costs_itself_and_is_told(site, http_config):
    children = ("/none.xml", "/1.xml", "/ok.xml")
    url = site.serve("/s.xml", sitemap(*children, kind="sitemapindex", item="sitemap"))
    for n in range(1, 3):
        deeper = sitemap(f"/{n + 1}.xml", kind="sitemapindex", item="sitemap")
        site.serve(f"/{n}.xml", deeper, Content_Type="text/xml")
    site.serve("/ok.xml", sitemap("/p"))
    client = HttpClient(http_config)
    pages = sitemap_pages(url, client)
    assert pages == [f"{site.url}/{name}" for name in ("none.xml", "2.xml", "p")]
    for failed in pages[:2]:
        (row,) = read_web_page(failed, client, "dalle-graph")
        assert (row.problem, row.page_url) == (Problem.PAGE_FAILED, failed)


def test_open_addresses_cost_no_more_than_their_length(site, http_config):
    url = site.serve("/s.xml", b"<urlset>" + b"<loc><![CDATA[" * 7_000 + b"<loc>/p</loc>")
    start = time.monotonic()
    assert sitemap_pages(url, HttpClient(http_config)) == [f"{site.url}/p"]
    assert time.monotonic() - start < 1


def test_a_web_page_that_forbids_use_is_one_row(site, http_config):
    image = b'<img src="a.png" alt="x">'
    client = HttpClient(http_config)
    closed = site.serve("/c", b'<meta name="dalle-graph" content="noai">' + image)
    header = site.serve("/h", image, X_Robots_Tag="noimageai")
    other = site.serve("/o", b'<meta name="otherbot" content="noai">' + image)
    for url in (closed, header):
        (row,) = read_web_page(url, client, "dalle-graph")
        assert (row.problem, row.page_url) == (Problem.PAGE_OPTED_OUT, url)
        assert "noai" in (row.detail or "") or "noimageai" in (row.detail or "")
    (row,) = read_web_page(other, client, "dalle-graph")
    assert (row.url, row.caption, row.problem) == (f"{site.url}/a.png", "x", None)
    (row,) = read_web_page(f"{site.url}/none", client, "dalle-graph")
    assert row.problem is Problem.PAGE_FAILED


def test_saved_pages_are_read_under_the_same_rules(tmp_path):
    address = "http://h.example/p.html"
    page = tmp_path / "p.html"
    page.write_text('<img src="a.png" alt="x">')
    assert [row[:3] for row in read_html_file(str(page), address, "dalle-graph")] == [
        ("http://h.example/a.png", "x", address)
    ]
    page.write_text('<meta name="robots" content="noai"><img src="a.png" alt="x">')
    (row,) = read_html_file(str(page), address, "dalle-graph")
    assert (row.problem, row.detail) == (Problem.PAGE_OPTED_OUT, "meta_robots: noai")
    page.write_bytes(b" " * (MAX_PAGE_BYTES + 1))
    for path in (str(page), str(tmp_path / "none.html")):
        (row,) = read_html_file(path, address, "dalle-graph")
        assert (row.problem, row.page_url) == (Problem.PAGE_FAILED, address)


def test_saved_pages_may_have_a_star_in_their_name(tmp_path):
    for name in ("a*.html", "ab.html"):
        (tmp_path / name).write_text('<img src="a.png" alt="x">')
    path = str(tmp_path / "a*.html")
    source = Source("s", SourceKind.HTML_FILES, (path,), base_url="http://h.example/")
    ((file, address),) = html_files(source)
    assert [row.caption for row in read_html_file(file, address, "dalle-graph")] == ["x"]
    (tmp_path / "a*.html").unlink()
    assert [file for file, _ in html_files(source)] == [f"file://{tmp_path}/ab.html"]


def test_pages_of_an_endless_address_fail():
    with pytest.raises(PageError, match="address has more than 8192"):
        list(page_rows(b"<img src=a alt=x>", "http://h/" + "x" * 9000, "dalle-graph"))
