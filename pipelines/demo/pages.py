"""HTML of the demonstration's pages, in the styles that a crawler meets."""

import html
import posixpath
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

_PLACEHOLDER = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


class Style(StrEnum):
    """How a page writes the addresses of its pictures."""

    RELATIVE = "relative"
    BASE = "base"
    LAZY = "lazy"
    SRCSET = "srcset"
    ABSOLUTE = "absolute"


class Shown(NamedTuple):
    """A picture on a page: its path on the server, its text, perhaps a smaller version's path."""

    path: str
    caption: str
    thumbnail: str | None = None


def render_page(
    title: str, shown: Sequence[Shown], style: Style, page_path: str, base_url: str
) -> str:
    """One page with a tracking pixel and a logo without text, which are no candidates."""
    folder = posixpath.dirname(page_path)
    base = '<base href="/media/">' if style is Style.BASE else ""
    figures = "\n".join(f"<p>{_image(picture, style, folder, base_url)}</p>" for picture in shown)
    return (
        f'<!doctype html>\n<html><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"{base}</head>\n<body><h1>{html.escape(title)}</h1>\n"
        f'<img src="/pixel.gif" width="1" height="1" alt="counter"><img src="/logo.png" alt="">\n'
        f"{figures}\n</body></html>\n"
    )


def _image(shown: Shown, style: Style, folder: str, base_url: str) -> str:
    alt = html.escape(shown.caption)
    relative = posixpath.relpath(shown.path, folder)
    if style is Style.BASE:
        return f'<img src="{posixpath.relpath(shown.path, "/media")}" alt="{alt}">'
    if style is Style.LAZY:
        return f'<img class="lazy" src="{_PLACEHOLDER}" data-src="{relative}" alt="{alt}">'
    if style is Style.SRCSET and shown.thumbnail:
        small = posixpath.relpath(shown.thumbnail, folder)
        return f'<img src="{small}" srcset="{small} 36w, {relative} 72w" alt="{alt}">'
    if style is Style.ABSOLUTE:
        return f'<img src="{base_url}{shown.path}" alt="{alt}">'
    return f'<img alt="{alt}" src="{relative}">'


def render_sitemap(paths: Sequence[str], base_url: str) -> str:
    """A sitemap of the pages (sitemaps.org)."""
    entries = "\n".join(f"<url><loc>{html.escape(base_url + p)}</loc></url>" for p in paths)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}\n</urlset>\n'
    )
