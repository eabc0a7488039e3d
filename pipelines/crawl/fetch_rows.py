"""Rows of `fetched_pairs`: from a response, withdrawn later, counted; and the order of requests."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from pipelines.crawl.consent.takedown import Takedown
from pipelines.crawl.http.client import Response
from pipelines.crawl.http.outcomes import Outcome
from pipelines.crawl.http.politeness import registrable_domain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def recorded_row(response: Response, attempts: int) -> dict[str, Any]:
    """A response as `fetch_ledger.COLUMNS`.

    Args:
        response: how the request ended.
        attempts: requests made for the URL before.
    """
    signal, text = response.opt_out or (None, None)
    image = response.body
    # The request that counts here was for the host's robots.txt: a host that never answers must
    # become final too.
    asked = response.attempts or int(response.outcome is Outcome.ROBOTS_UNREACHABLE)
    return {
        "outcome": str(response.outcome),
        "detail": response.detail,
        "http_status": response.status,
        "mime": response.mime,
        "fetched_at": (response.ended_at - _EPOCH) // _MICROSECOND,
        "attempts": attempts + asked,
        "opt_out_signal": signal,
        "opt_out_text": text,
        "bytes": None if image is None else len(image),
        "image_sha256": None if image is None else hashlib.sha256(image).digest(),
    }


def withdrawn(
    url: str, row: Mapping[str, Any], takedown: Takedown, max_bytes: int
) -> dict[str, Any] | None:
    """What becomes of a row with an image that may not be kept any more; None if it may."""
    objection = takedown.forbids_url(url) or takedown.forbids_sha256(row["image_sha256"])
    without = {**row, "bytes": None, "image_sha256": None}
    if objection is not None:
        signal, text = objection
        return without | {
            "outcome": str(Outcome.OPTED_OUT),
            "detail": f"{signal}: {text}",
            "opt_out_signal": signal,
            "opt_out_text": text,
        }
    if row["bytes"] > max_bytes:
        detail = f"{row['bytes']} bytes, more than {max_bytes}"
        return without | {"outcome": str(Outcome.TOO_LARGE), "detail": detail}
    return None


def is_still_listed(row: Mapping[str, Any], takedown: Takedown) -> bool:
    """Whether the entry of the takedown list that ended a row is in this list too."""
    entry = row["opt_out_text"]
    images = {digest.hex() for digest in takedown.images}
    return entry in takedown.urls or entry in takedown.domains or entry in images


def count_outcome(outcomes: dict[str, dict[str, Any]], row: Mapping[str, Any]) -> None:
    """Count a row under its outcome: rows, those worth another try, and the first one's detail."""
    entry = outcomes.setdefault(row["outcome"], {"rows": 0, "retryable": 0, "example": None})
    entry["rows"] += 1
    entry["retryable"] += row["retryable"]
    if entry["example"] is None and row["detail"]:
        entry["example"] = f"{row['url']}: {row['detail']}"


def spread_domains(urls: Sequence[str]) -> list[str]:
    """`urls` with those of each registrable domain spread evenly over the whole.

    A wait for one domain's turn then holds one thread of many, and the domain that needs the
    longest begins at once. The order depends on nothing but the URLs.
    """
    domains = [registrable_domain(urlsplit(url).hostname or "") for url in urls]
    sizes = Counter(domains)
    seen: Counter[str] = Counter()
    places = []
    for domain, url in zip(domains, urls, strict=True):
        # The same distance between all of a domain, from a place by its hash: or else all domains
        # of one URL would share the middle.
        within = zlib.crc32(domain.encode()) / 2**32
        places.append(((seen[domain] + within) / sizes[domain], domain, url))
        seen[domain] += 1
    return [url for *_, url in sorted(places)]
