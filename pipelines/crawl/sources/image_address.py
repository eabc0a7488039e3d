"""Which of an image's many addresses is the picture at its largest."""

import re
from collections.abc import Callable, Mapping, Sequence

Address = Mapping[str, str | None]
"""Attributes of an element, names in lower case."""

# Where scripts that load pictures when they scroll into view keep the address.
_SETS = ("data-srcset", "data-lazy-srcset", "srcset")
_LAZY = (
    "data-hi-res-src", "data-src", "data-lazy-src", "data-original", "data-original-src",
    "data-lazy", "data-url", "data-echo", "data-image",
)  # fmt: skip
_BESIDE_SRC = frozenset(_SETS + _LAZY)
# What the fetch takes; every <picture> has an <img> of a common type (HTML standard, 4.8.1).
_TYPES = frozenset({"", "image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif"})
_SEPARATOR = re.compile(r",\s+|,$")
_DESCRIPTOR = re.compile(r"\d{1,9}(\.\d{1,9})?[wx]")


def best_address(
    attributes: Address, sources: Sequence[Address], join: Callable[[str], str | None]
) -> str | None:
    """The largest of all srcsets, else the first lazy-loading attribute, else `src`.

    Args:
        attributes: of the `<img>`.
        sources: of the `<source>` elements of its `<picture>`.
        join: makes an absolute http(s) URL of an address, None if it is none.
    """
    if not sources and _BESIDE_SRC.isdisjoint(attributes):
        return join(attributes.get("src") or "")
    best: tuple[float, str] | None = None
    sets = [value for name in _SETS if (value := attributes.get(name))]
    for source in sources:
        if (source.get("type") or "").split(";")[0].strip().lower() in _TYPES:
            sets += [value for name in _SETS if (value := source.get(name))]
    for srcset in sets:
        largest = _largest(srcset)
        if largest and (best is None or largest[0] > best[0]) and (url := join(largest[1])):
            best = (largest[0], url)
    if best is not None:
        return best[1]
    for name in _LAZY:
        value = attributes.get(name)
        # Some keep a flag or a template here: `data-lazy="true"`, `data-src="{{url}}"`.
        if value and ("/" in value or "." in value) and "{" not in value and (url := join(value)):
            return url
    return join(attributes.get("src") or "")


def largest_of_srcset(srcset: str) -> str | None:
    """The address with the greatest width or density descriptor (HTML standard, 4.8.4.2.1)."""
    found = _largest(srcset)
    return found[1] if found else None


def _largest(srcset: str) -> tuple[float, str] | None:
    best: tuple[float, str] | None = None
    # A comma ends a candidate only before white space: addresses may hold commas.
    for candidate in _SEPARATOR.split(srcset.strip()):
        fields = candidate.split(None, 2)
        if not fields or "{" in fields[0]:
            continue
        size = 1.0
        if len(fields) > 1 and _DESCRIPTOR.fullmatch(fields[1]):
            size = float(fields[1][:-1])
        if best is None or size > best[0]:
            best = (size, fields[0])
    return best
