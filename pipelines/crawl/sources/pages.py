"""Web pages as sources: sitemaps, pages over HTTP under the rules of images, and saved pages."""

import html
import logging
import posixpath
import re
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import quote, urljoin

from pipelines import storage
from pipelines.crawl.batches import Source
from pipelines.crawl.consent import opt_out
from pipelines.crawl.found import MAX_URL_CHARS, FoundRow, Problem
from pipelines.crawl.http.client import HttpClient, Response
from pipelines.crawl.http.outcomes import Outcome
from pipelines.crawl.sources.parser_process import PageError, parse_untrusted

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_XML_TYPES = ("text/xml", "application/xml", "application/gzip", "application/x-gzip")
_SITEMAP_LEVELS = 2
_SITEMAP_BYTES = 50 * 1024 * 1024  # the limit of the sitemap protocol, sitemaps.org
_SITEMAP_ADDRESSES = 50_000  # the protocol's too
_SITEMAP_ROOT = re.compile(rb"<(?:\w{1,20}:)?(urlset|sitemapindex)[\s>]")
# Without a prefix: <image:loc> is no page. Nothing runs over a `<`, so that the work is linear.
_LOCATION = re.compile(rb"<loc\s*>(?:\s*<!\[CDATA\[([^\]<]*)\]\]>|([^<]*))")
# Of all sitemaps together, which one shard after another is planned of.
_MOST_PAGES = 1_000_000
_MOST_CHARS = 100_000_000
_MOST_SITEMAPS = 50_000
MAX_PAGE_BYTES = 20_000_000
log = logging.getLogger(__name__)


class SitemapError(ValueError):
    """A sitemap that could not be read, with what to do."""


def sitemap_pages(sitemap: str, client: HttpClient) -> list[str]:
    """Page URLs of a sitemap, those of the sitemaps that it lists included, each once, in order.

    A listed sitemap that cannot be read stands for its pages, so that reading it as a page says in
    the rejects that it failed.

    Raises:
        SitemapError: if it cannot be fetched or is not a sitemap, or lists too much.
    """
    pages: dict[str, None] = {}
    seen = {sitemap}
    waiting = [(sitemap, 0)]
    chars = 0
    while waiting:
        address, level = waiting.pop()
        try:
            index, found = _read_sitemap(address, client, level)
        except SitemapError as error:
            if level == 0:
                raise
            log.warning("%s; its pages are left out", error)
            index, found = False, [address]
        if index:
            new = [child for child in dict.fromkeys(found) if child not in seen]
            seen.update(new)
            waiting += [(child, level + 1) for child in reversed(new)]
        else:
            pages |= dict.fromkeys(found)
        chars += sum(map(len, found))
        if len(pages) > _MOST_PAGES or len(seen) > _MOST_SITEMAPS or chars > _MOST_CHARS:
            raise SitemapError(
                f"sitemap {sitemap} lists more than {_MOST_PAGES:,} pages, {_MOST_SITEMAPS:,} "
                f"sitemaps or {_MOST_CHARS:,} characters of addresses: give some of the sitemaps "
                "that it lists instead"
            )
    return list(pages)


def _read_sitemap(sitemap: str, client: HttpClient, level: int) -> tuple[bool, list[str]]:
    """Whether it lists other sitemaps, and the addresses that it lists."""
    response = client.get(sitemap, _sniff_xml, Outcome.NOT_A_PAGE)
    if response.body is None:
        raise SitemapError(
            f"sitemap {sitemap} could not be fetched ({response.outcome}: {response.detail}); "
            "check the address and that its server runs"
        )
    index, listed = _parse_sitemap(sitemap, _inflated(sitemap, response.body))
    if index and level == _SITEMAP_LEVELS:
        raise SitemapError(f"sitemap {sitemap} lies more than {_SITEMAP_LEVELS} levels deep")
    return index, [urljoin(response.url, found) for found in listed]


def _parse_sitemap(sitemap: str, body: bytes) -> tuple[bool, list[str]]:
    """Whether it lists other sitemaps, and what it lists.

    Its grammar is so small that no XML parser, with entities to expand, need be let at it.
    """
    root = _SITEMAP_ROOT.search(body)
    if root is None:
        raise SitemapError(f"{sitemap} is not a sitemap: it has neither urlset nor sitemapindex")
    listed = []
    for number, found in enumerate(_LOCATION.finditer(body, root.end())):
        if number == _SITEMAP_ADDRESSES:
            raise SitemapError(
                f"sitemap {sitemap} lists more than the {_SITEMAP_ADDRESSES:,} addresses that the "
                "protocol allows"
            )
        text = (found[1] or found[2] or b"").decode(errors="replace")
        if address := html.unescape(text).strip():
            listed.append(address)
    return root[1] == b"sitemapindex", listed


def page_rows(
    body: bytes,
    page_url: str,
    agent: str,
    *,
    address: str | None = None,
    content_type: str = "",
    headers: Iterable[tuple[str, str]] = (),
) -> Iterator[FoundRow]:
    """Images of a page; one row with the problem if it forbids their use.

    Args:
        body: the page's bytes.
        page_url: written into every row.
        agent: our product token, for signals that name crawlers.
        address: what relative URLs are resolved against, if another (after redirects).
        content_type: the response's Content-Type header.
        headers: of the response, if nobody has looked for opt-outs in them.

    Raises:
        PageError: if the page cannot be parsed.
    """
    if len(page_url) > MAX_URL_CHARS:
        raise PageError(f"the page's address has more than {MAX_URL_CHARS} characters")
    closed = opt_out.forbidden_by_headers(headers, agent)
    if closed is None:
        page = parse_untrusted(body, address or page_url, content_type)
        closed = opt_out.forbidden_by_meta(page.metas, agent)
    if closed is not None:
        detail = f"{closed.signal}: {closed.text}"
        yield FoundRow(page_url, None, page_url, Problem.PAGE_OPTED_OUT, detail)
        return
    for image in page.images:
        yield FoundRow(image.url, image.caption, page_url)


def read_web_page(url: str, client: HttpClient, agent: str) -> Iterator[FoundRow]:
    """Images of one page over HTTP; one row with the problem if the page gives nothing."""
    response = client.get(url, sniff_html, Outcome.NOT_A_PAGE)
    if response.body is None:
        yield FoundRow(url, None, url, _page_problem(response), response.detail)
        return
    try:
        yield from page_rows(
            response.body, url, agent, address=response.url, content_type=response.content_type
        )
    except PageError as error:
        yield FoundRow(url, None, url, Problem.PAGE_FAILED, str(error))


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
        # Names on a disk may hold a star.
        glob = "*" in pattern_in and not fs.isfile(path)
        found = sorted(fs.glob(pattern_in)) if glob else [path]
        files = [f for f in found if f.lower().endswith((".html", ".htm", ".xhtml"))]
        if not files or not all(fs.exists(f) for f in files):
            raise FileNotFoundError(f"{pattern} names no HTML file; check the source's paths")
        for file in files:
            address = urljoin(base, quote(posixpath.relpath(file, root)))
            pages.append((fs.unstrip_protocol(file), address))
    return pages


def read_html_file(path: str, page_url: str, agent: str) -> Iterator[FoundRow]:
    """Images of one saved page; one row with the problem if it cannot be read."""
    try:
        fs, inside = storage.filesystem(path)
        with fs.open(inside, "rb") as stream:
            body = stream.read(MAX_PAGE_BYTES + 1)
        if len(body) > MAX_PAGE_BYTES:
            raise PageError(f"more than {MAX_PAGE_BYTES} bytes")
        yield from page_rows(body, page_url, agent)
    except (OSError, PageError) as error:
        yield FoundRow(page_url, None, page_url, Problem.PAGE_FAILED, str(error))


def _page_problem(response: Response) -> Problem:
    opted_out = response.outcome is Outcome.OPTED_OUT
    return Problem.PAGE_OPTED_OUT if opted_out else Problem.PAGE_FAILED


def sniff_html(head: bytes, content_type: str) -> str | None:
    """MIME type of an HTML page by its Content-Type, or by its first bytes if it has none."""
    declared = content_type.split(";")[0].strip().lower()
    looks = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
    return declared or "text/html" if declared in _HTML_TYPES or (looks and not declared) else None


def _sniff_xml(head: bytes, content_type: str) -> str | None:
    declared = content_type.split(";")[0].strip().lower()
    looks = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or head.startswith(b"\x1f\x8b")
    return declared or "text/xml" if declared in _XML_TYPES or looks else None


def _inflated(sitemap: str, body: bytes) -> bytes:
    """A sitemap's bytes, unpacked if they are gzip.

    Raises:
        SitemapError: if they are broken, or more than the protocol allows.
    """
    if not body.startswith(b"\x1f\x8b"):
        return body
    inflate = zlib.decompressobj(wbits=31)
    try:
        unpacked = inflate.decompress(body, _SITEMAP_BYTES)
    except zlib.error as error:
        raise SitemapError(f"sitemap {sitemap} is broken gzip: {error}") from error
    if not inflate.eof:
        raise SitemapError(f"sitemap {sitemap} ends early or unpacks to more than 50 MB")
    return unpacked
