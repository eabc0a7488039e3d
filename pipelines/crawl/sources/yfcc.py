"""The metadata of YFCC100M (arXiv 1503.01817): a line of tab-separated fields a photo or video.

23 fields as first published, 25 in the later one, which begins with a line number and puts a hash
after the identifier. Title and description are percent-encoded with `+` for spaces and hold HTML;
a marker says 0 for a photo and 1 for a video.
"""

import html
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_plus

from pipelines.crawl.found import FoundRow, Problem
from pipelines.crawl.sources.text_lines import broken


class _Fields(NamedTuple):
    title: int
    description: int
    page: int
    download: int
    marker: int


_LAYOUTS = {23: _Fields(6, 7, 13, 14, 22), 25: _Fields(8, 9, 15, 16, 24)}
# No tree is built of markup: a line of 95 KB can make it one of 5 GB. What is between the signs
# holds neither of them, so that the work is linear.
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]*)\b[^<>]*>|<![^<>]*>")
# Tags that part words on a page but leave nothing in its text.
_BREAKS = frozenset({"br", "p", "div", "li", "tr", "td"})


def looks_like_yfcc(fields: list[str]) -> bool:
    """Whether a line's fields are those of YFCC100M."""
    at = _LAYOUTS.get(len(fields))
    return (
        at is not None
        and fields[at.marker] in ("0", "1")
        and fields[at.page].startswith("http")
        and fields[at.download].startswith("http")
    )


def rows_of_line(line: str) -> Iterator[FoundRow]:
    """The pairs of one line: its title and its description, each where it is not empty."""
    fields = line.split("\t")
    at = _LAYOUTS.get(len(fields))
    if at is None or fields[at.marker] not in ("0", "1"):
        detail = f"{len(fields)} fields, not those of YFCC100M: {line[:200]}"
        yield broken(detail)
        return
    url, page = fields[at.download], fields[at.page]
    title, description = _plain(fields[at.title]), _plain(fields[at.description])
    if fields[at.marker] == "1":
        yield FoundRow(url, title or description, page, Problem.NOT_A_PICTURE, "a video")
        return
    for caption in [text for text in (title, description) if text] or [""]:
        yield FoundRow(url, caption, page)


def _plain(field: str) -> str:
    """Text of an encoded field. Escapes that are not UTF-8 become surrogates, as in other lists."""
    text = unquote_plus(field, errors="surrogateescape")
    if "<" in text:
        text = _TAG.sub(lambda tag: " " if (tag[1] or "").lower() in _BREAKS else "", text)
    return html.unescape(text).strip()
