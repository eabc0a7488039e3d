"""Web pages as sources: sitemaps, pages over HTTP under the rules of images, and saved pages."""

import posixpath
import zlib
from collections.abc import Iterator
from urllib.parse import quote, urljoin

import fsspec
from selectolax.lexbor import LexborHTMLParser

from pipelines import storage
from pipelines.crawl.batches import Source
from pipelines.crawl.found import FoundRow, Problem
from pipelines.crawl.html import extract_images
from pipelines.crawl.http_fetch import HttpClient, Response
from pipelines.crawl.outcomes import Outcome

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_XML_TYPES = ("text/xml", "application/xml", "application/gzip", "application/x-gzip")
_SITEMAP_LEVELS = 2
_SITEMAP_BYTES = 50 * 1024 * 1024  # the limit of the sitemap protocol, sitemaps.org


class SitemapError(RuntimeError):
    """A sitemap that could not be read, with what to do."""


def sitemap_pages(sitemap: str, client: HttpClient, level: int = 0) -> list[str]:
    """Page URLs of a sitemap, those of the sitemaps that it lists included, in its order.

    Raises:
        SitemapError: if it cannot be fetched or is not a sitemap.
    """
    response = client.get(sitemap, _sniff_xml, Outcome.NOT_A_PAGE)
    if response.body is None:
        raise SitemapError(
            f"sitemap {sitemap} could not be fetched ({response.outcome}: {response.detail}); "
            "check the address and that its server runs"
        )
    body = _inflated(response.body)
    tree = LexborHTMLParser(body.decode("utf-8", errors="replace"))
    locations = [node.text().strip() for node in tree.css("loc")]
    if tree.css_first("sitemapindex") is not None:
        if level == _SITEMAP_LEVELS:
            raise SitemapError(f"sitemap {sitemap} lies more than {_SITEMAP_LEVELS} levels deep")
        return [page for at in locations for page in sitemap_pages(at, client, level + 1)]
    if tree.css_first("urlset") is None:
        raise SitemapError(f"{sitemap} is not a sitemap: it has neither urlset nor sitemapindex")
    return locations


def read_web_page(url: str, client: HttpClient) -> Iterator[FoundRow]:
    """Images of one page over HTTP; one row with the problem if the page gives nothing."""
    response = client.get(url, _sniff_html, Outcome.NOT_A_PAGE)
    if response.body is None:
        yield FoundRow(url, None, url, _page_problem(response), response.detail)
        return
    for image in extract_images(response.body, response.url, response.content_type):
        yield FoundRow(image.url, image.caption, url)


def html_files(source: Source) -> list[tuple[str, str]]:
    """Paths of a source's saved pages and the web address of each.

    Raises:
        FileNotFoundError: if a path names nothing.
    """
    pages = []
    base = str(source.base_url).rstrip("/") + "/"
    for pattern in source.paths:
        fs, path = storage.filesystem(pattern)
        if fs.isdir(path):
            root, pattern_in = path, f"{path.rstrip('/')}/**"
        else:
            root, pattern_in = posixpath.dirname(path.split("*")[0]), path
        found = sorted(fs.glob(pattern_in)) if "*" in pattern_in else [path]
        files = [f for f in found if f.lower().endswith((".html", ".htm", ".xhtml"))]
        if not files or not all(fs.exists(f) for f in files):
            raise FileNotFoundError(f"{pattern} names no HTML file; check the source's paths")
        for file in files:
            address = urljoin(base, quote(posixpath.relpath(file, root)))
            pages.append((fs.unstrip_protocol(file), address))
    return pages


def read_html_file(path: str, page_url: str) -> Iterator[FoundRow]:
    """Images of one saved page; one row with the problem if it cannot be read."""
    try:
        with fsspec.open(path, "rb") as stream:
            body = stream.read()
    except OSError as error:
        yield FoundRow(page_url, None, page_url, Problem.PAGE_FAILED, str(error))
        return
    for image in extract_images(body, page_url):
        yield FoundRow(image.url, image.caption, page_url)


def _page_problem(response: Response) -> Problem:
    opted_out = response.outcome is Outcome.OPTED_OUT
    return Problem.PAGE_OPTED_OUT if opted_out else Problem.PAGE_FAILED


def _sniff_html(head: bytes, content_type: str) -> str | None:
    declared = content_type.split(";")[0].strip().lower()
    looks = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
    return declared or "text/html" if declared in _HTML_TYPES or (looks and not declared) else None


def _sniff_xml(head: bytes, content_type: str) -> str | None:
    declared = content_type.split(";")[0].strip().lower()
    looks = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or head.startswith(b"\x1f\x8b")
    return declared or "text/xml" if declared in _XML_TYPES or looks else None


def _inflated(body: bytes) -> bytes:
    """A sitemap's bytes, unpacked up to the protocol's limit if they are gzip."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    return zlib.decompressobj(wbits=31).decompress(body, _SITEMAP_BYTES)
