"""Images with a text in an HTML page, and what the page's `<meta>` elements say.

Selectolax's Lexbor binding parses as browsers do (the HTML standard's error recovery), at about
three times the rate of lxml. Work grows with the square of a hostile page's size: pages nobody
knows go through `parser_process.parse_untrusted`.
"""

import re
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipelines.crawl.found import MAX_URL_CHARS
from pipelines.crawl.sources.charsets import decode
from pipelines.crawl.sources.image_address import Address, best_address
from pipelines.identity import normalise_caption

_WANTED = "img, base[href], meta[name], figcaption, picture"
_TRACKING_SIDE = 2
_STYLED_SMALL = re.compile(r"(?:^|;)\s*(?:width|height)\s*:\s*[0-2](?:\.\d*)?px", re.I)
# How far an image may lie inside its `<figure>` or `<picture>`.
_ANCESTORS = 12
# Elements that separate words, unlike <b> or <a>.
_BLOCKS = frozenset({"p", "div", "br", "li", "h1", "h2", "h3", "h4", "h5", "h6", "td", "dd", "dt"})
# What `urljoin` gives back as it is, and what it only appends to a directory; others go through it.
_PLAIN = r"A-Za-z0-9_~%+,@!$&'()*="
_QUERY = rf"(?:\?[{_PLAIN}/?:.-]+)?"
_ABSOLUTE = re.compile(rf"https?://[A-Za-z0-9.-]+(?::[0-9]+)?/[{_PLAIN}/:.-]*{_QUERY}")
_DIRECTORY = re.compile(
    rf"(https?://[A-Za-z0-9.-]+(?::[0-9]+)?)((?:/[{_PLAIN}-][{_PLAIN}.-]*)*)/(?:[{_PLAIN}.-]*)(?:\?.*)?"
)
_RELATIVE = re.compile(rf"(/?)([{_PLAIN}-][{_PLAIN}.-]*(?:/[{_PLAIN}-][{_PLAIN}.-]*)*{_QUERY})")


class Image(NamedTuple):
    """An image's absolute URL as the page gives it, and its text with white space normalised."""

    url: str
    caption: str


class Page(NamedTuple):
    """What was found: images in document order, and (name, content) of each `<meta name>`."""

    images: list[Image]
    metas: list[tuple[str, str]]


class Base:
    """The address that a page's relative URLs are resolved against."""

    def __init__(self, url: str):
        """Parse the address once."""
        self._url = url
        plain = _DIRECTORY.fullmatch(url)
        self._root = f"{plain[1]}/" if plain else ""
        self._directory = f"{plain[1]}{plain[2]}/" if plain else ""

    def join(self, address: str) -> str | None:
        """`address` as an absolute http(s) URL, or None if it is none."""
        if _ABSOLUTE.fullmatch(address):
            return address
        if self._directory:
            relative = _RELATIVE.fullmatch(address)
            if relative:
                return (self._root if relative[1] else self._directory) + relative[2]
        return self.join_slowly(address)

    def join_slowly(self, address: str) -> str | None:
        """`join` by the standard library alone."""
        if not address or not address.strip():
            return None
        try:
            url = urljoin(self._url, address.strip())
            return url if urlsplit(url).scheme.lower() in ("http", "https") else None
        except ValueError:
            return None


def parse_page(body: bytes, page_url: str, content_type: str = "") -> Page:
    """Images of a page that have a text, and its metas; never raises.

    An image's text is its `alt`; the `<figcaption>` of its `<figure>` is another pair if it says
    something else. Of several addresses the largest of a srcset (`<picture>`'s sources included)
    wins, then a lazy-loading attribute, then `src`. Other schemes than http(s), `data:` URLs and
    pictures declared smaller than 3 px are left out.

    Args:
        body: the page's bytes.
        page_url: its address, which relative URLs are resolved against unless it has a `<base>`.
        content_type: the response's Content-Type header, for its charset.
    """
    tree = LexborHTMLParser(decode(body, content_type))
    images: list[LexborNode] = []
    metas: list[tuple[str, str]] = []
    captions: dict[int, str] = {}
    declared: str | None = None
    pictures = False
    for node in tree.css(_WANTED):
        tag = node.tag
        if tag == "img":
            images.append(node)
        elif tag == "meta":
            attributes = node.attributes
            metas.append((attributes["name"] or "", attributes.get("content") or ""))
        elif tag == "base":
            declared = node.attributes["href"] if declared is None else declared
        elif tag == "picture":
            pictures = True
        elif node.parent is not None and node.parent.tag == "figure":
            captions.setdefault(node.parent.mem_id, _text(node))
    base = Base((declared is not None and Base(page_url).join(declared)) or page_url)
    found = []
    for node in images:
        attributes = node.attributes
        texts = _texts(node, attributes, captions)
        if texts and not _is_tracking_pixel(attributes):
            url = best_address(attributes, _sources(node) if pictures else (), base.join)
            if url:
                # A long `<base>` is a part of every address; one too long is rejected later.
                found += [Image(url[: MAX_URL_CHARS + 1], text) for text in texts]
    return Page(found, metas)


def _texts(node: LexborNode, attributes: Address, captions: dict[int, str]) -> list[str]:
    """The image's `alt`, its figure's caption, both or none."""
    alt = attributes.get("alt")
    texts = [text] if alt and (text := normalise_caption(alt)) else []
    if captions and (said := _figure_caption(node, captions)) and said not in texts:
        texts.append(said)
    return texts


def _figure_caption(node: LexborNode, captions: dict[int, str]) -> str:
    parent = node.parent
    for _ in range(_ANCESTORS):
        if parent is None:
            break
        if parent.tag == "figure":
            return captions.get(parent.mem_id, "")
        parent = parent.parent
    return ""


def _sources(node: LexborNode) -> list[Address]:
    """Attributes of the sources of the image's `<picture>`, in order; few have one."""
    parent = node.parent
    if parent is None or parent.tag != "picture":
        return []
    return [source.attributes for source in parent.iter() if source.tag == "source"]


def _text(node: LexborNode) -> str:
    """Text of an element, with a space where a block begins or ends."""
    pieces = []
    for inner in node.traverse(include_text=True):
        if inner.tag == "-text":
            parent = inner.parent
            if parent is None or parent.tag not in ("script", "style", "noscript"):
                pieces.append(inner.text_content or "")
        elif inner.tag in _BLOCKS:
            pieces.append(" ")
    return normalise_caption("".join(pieces))


def _is_tracking_pixel(attributes: Address) -> bool:
    for name in ("width", "height"):
        value = attributes.get(name)
        if value:
            value = value.strip().removesuffix("px")
            if value.isdecimal() and len(value) < 9 and int(value) <= _TRACKING_SIDE:
                return True
    style = attributes.get("style")
    return bool(style and _STYLED_SMALL.search(style))
