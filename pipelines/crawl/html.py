"""Images with a text alternative in an HTML page.

Selectolax's Lexbor binding parses as browsers do (the HTML standard's error recovery), at about
three times the rate of lxml.
"""

import re
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipelines.identity import normalise_caption

# Where scripts that load pictures when they scroll into view keep the address.
_LAZY_SETS = ("data-srcset", "data-lazy-srcset")
_LAZY = ("data-src", "data-lazy-src", "data-original", "data-lazy", "data-url")
_TRACKING_SIDE = 2
_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.I
)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_:.-]{1,40})", re.I)


class Image(NamedTuple):
    """An image's absolute URL as the page gives it, and its text with white space normalised."""

    url: str
    caption: str


def extract_images(body: bytes, page_url: str, content_type: str = "") -> list[Image]:
    """Images of a page that have a non-empty `alt`, in document order.

    Of several addresses the largest of a srcset wins, then a lazy-loading attribute, then `src`.
    Other schemes than http(s), `data:` URLs and pictures declared smaller than 3 px are left out.

    Args:
        body: the page's bytes.
        page_url: its address, which relative URLs are resolved against unless it has a `<base>`.
        content_type: the response's Content-Type header, for its charset.
    """
    tree = LexborHTMLParser(decode(body, content_type))
    base = page_url
    declared = tree.css_first("base[href]")
    if declared is not None:
        base = _join(page_url, declared.attributes.get("href")) or page_url
    images = []
    for node in tree.css("img[alt]"):
        caption = normalise_caption(node.attributes.get("alt") or "")
        url = _address(node, base)
        if caption and url and not _is_tracking_pixel(node):
            images.append(Image(url, caption))
    return images


def decode(body: bytes, content_type: str = "") -> str:
    """Text of a page: the header's charset, else its own `<meta>`, else UTF-8; never fails."""
    header = _HEADER_CHARSET.search(content_type)
    meta = _META_CHARSET.search(body[:2048])
    for name in (header and header[1], meta and meta[1].decode("ascii")):
        if name:
            try:
                return body.decode(name, errors="replace")
            except LookupError:
                continue
    return body.decode("utf-8-sig", errors="replace")


def largest_of_srcset(srcset: str) -> str | None:
    """The address with the greatest width or density descriptor (HTML standard, 4.8.4.2.1)."""
    best: tuple[float, str] | None = None
    # A comma ends a candidate only before white space: addresses may hold commas.
    for candidate in re.split(r",\s+|,$", srcset.strip()):
        fields = candidate.split()
        if not fields:
            continue
        size = 1.0
        if len(fields) > 1 and re.fullmatch(r"\d+(\.\d+)?[wx]", fields[1]):
            size = float(fields[1][:-1])
        if best is None or size > best[0]:
            best = (size, fields[0])
    return best[1] if best else None


def _address(node: LexborNode, base: str) -> str | None:
    """The first of the image's addresses, best first, that is http(s)."""
    attributes = node.attributes
    sets = (largest_of_srcset(attributes.get(n) or "") for n in (*_LAZY_SETS, "srcset"))
    plain = (attributes.get(name) for name in (*_LAZY, "src"))
    return next((url for found in (*sets, *plain) if (url := _join(base, found))), None)


def _join(base: str, address: str | None) -> str | None:
    if not address or not address.strip():
        return None
    try:
        url = urljoin(base, address.strip())
        return url if urlsplit(url).scheme.lower() in ("http", "https") else None
    except ValueError:
        return None


def _is_tracking_pixel(node: LexborNode) -> bool:
    for name in ("width", "height"):
        value = (node.attributes.get(name) or "").strip().removesuffix("px")
        if value.isdecimal() and int(value) <= _TRACKING_SIDE:
            return True
    return False
