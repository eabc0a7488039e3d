"""WAT records: what Common Crawl's extractor wrote down of a page, as JSON.

https://commoncrawl.org/get-started: Envelope > Payload-Metadata > HTTP-Response-Metadata >
HTML-Metadata, with Head (Base, Metas) and Links (path, url, alt).
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.crawl.consent import opt_out
from pipelines.crawl.found import FoundRow, Problem
from pipelines.crawl.sources.html import Base
from pipelines.crawl.sources.image_address import largest_of_srcset
from pipelines.identity import normalise_caption

# With the semicolon only: `&copy=1` in an address is a parameter.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def wat_rows(record: object, agent: str) -> Iterator[FoundRow]:
    """Images with a text of one WAT record; none if it is not about a page with status 200.

    Args:
        record: the parsed JSON; missing and wrong parts count as empty.
        agent: our product token, for opt-out signals that name crawlers.
    """
    envelope = _within(record, "Envelope")
    about = _within(envelope, "WARC-Header-Metadata")
    response = _within(envelope, "Payload-Metadata", "HTTP-Response-Metadata")
    page = _within(response, "HTML-Metadata")
    url = _string(about.get("WARC-Target-URI"))
    status = _string(_within(response, "Response-Message").get("Status"))
    if about.get("WARC-Type") != "response" or status != "200" or not page:
        return
    head = _within(page, "Head")
    metas = [
        (_decoded(meta.get("name")), _decoded(meta.get("content")))
        for meta in _mappings(head.get("Metas"))
        if meta.get("name")
    ]
    closed = opt_out.forbidden_by_headers(_headers(_within(response, "Headers")), agent)
    closed = closed or opt_out.forbidden_by_meta(metas, agent)
    if closed is not None:
        detail = f"{closed.signal}: {closed.text}"
        yield FoundRow(url, None, url, Problem.PAGE_OPTED_OUT, detail)
        return
    base = Base(Base(url).join(_decoded(head.get("Base"))) or url)
    for link in _mappings(page.get("Links")):
        path = _string(link.get("path"))
        caption = normalise_caption(_decoded(link.get("alt")))
        if caption and path.startswith("IMG@/"):
            address = _decoded(link.get("url"))
            if path.endswith("srcset"):
                address = largest_of_srcset(address) or ""
            if image := base.join(address):
                yield FoundRow(image, caption, url)


def _within(value: object, *names: str) -> Mapping[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _string(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _decoded(value: object) -> str:
    return _ENTITY.sub(lambda found: html.unescape(found[0]), _string(value))


def _headers(headers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of name and value; a header sent several times is a list."""
    return [
        (name, _string(one))
        for name, value in headers.items()
        for one in (value if isinstance(value, list) else [value])
    ]
