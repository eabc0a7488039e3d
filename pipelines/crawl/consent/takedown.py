"""The operator's own list of what must not be fetched or kept."""

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pipelines.crawl.consent.opt_out import OptOut
from pipelines.identity import normalise_url
from pipelines.storage import read_bytes

SIGNAL = "takedown_list"

_COMMENT = re.compile(r"(^|\s)#.*")  # a `#` inside a URL begins its fragment
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_UID = re.compile(r"[0-9a-fA-F]{32}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")


@dataclass(frozen=True)
class Takedown:
    """A takedown list; picklable.

    Attributes:
        sha256: hex digest of the file's content, for fingerprints.
        urls: normalised.
        domains: in lower case and IDNA, and IP addresses; a domain covers its subdomains.
        images: SHA-256 of image bytes, 32 bytes each.
        uids: of pairs, 16 bytes each; they are known, and so act, from the publication on.
    """

    sha256: str
    urls: frozenset[str]
    domains: frozenset[str]
    images: frozenset[bytes]
    uids: frozenset[bytes]

    def text(self) -> str:
        """Its entries as `read_takedown` takes them: sorted, one a line, without comments."""
        entries = [*self.urls, *self.domains, *(d.hex() for d in (*self.images, *self.uids))]
        return "".join(f"{entry}\n" for entry in sorted(entries))

    def forbids_url(self, url: str) -> OptOut | None:
        """The entry that forbids `url`, or None. Nothing forbids what is no http(s) URL."""
        if not self.urls and not self.domains:
            return None
        try:
            url = normalise_url(url)
        except ValueError:
            return None
        if url in self.urls:
            return OptOut(SIGNAL, url)
        listed = self.listed_domain(urlsplit(url).hostname or "")
        return OptOut(SIGNAL, listed) if listed else None

    def listed_domain(self, host: str) -> str | None:
        """The listed domain that `host`, as `normalise_url` spells it, is or lies in."""
        while host:
            if host in self.domains:
                return host
            host = host.partition(".")[2]
        return None

    def forbids_sha256(self, digest: bytes) -> OptOut | None:
        """The entry that forbids an image by the SHA-256 of its bytes, or None.

        Raises:
            ValueError: if the digest is not 32 bytes long.
        """
        if len(digest) != 32:
            raise ValueError(f"expected the 32 bytes of a SHA-256, got {len(digest)}")
        return OptOut(SIGNAL, digest.hex()) if digest in self.images else None


def read_takedown(path: str | None) -> Takedown:
    """Read a takedown list: a URL, domain, SHA-256 or uid a line; `#` begins a comment.

    Args:
        path: any fsspec URL; the list is empty without one.

    Raises:
        ValueError: if a line is none of them, with the file, the line's number and its text.
        FileNotFoundError: if there is no such file.
    """
    content = read_bytes(path) if path is not None else b""
    urls: set[str] = set()
    domains: set[str] = set()
    images: set[bytes] = set()
    uids: set[bytes] = set()
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), 1):
        entry = _COMMENT.sub("", line).strip()
        try:
            if not entry:
                continue
            if re.search(r"\s", entry):  # two entries in one line, for instance
                raise ValueError(entry)
            if "://" in entry:
                urls.add(normalise_url(entry))
            elif _SHA256.fullmatch(entry):
                images.add(bytes.fromhex(entry))
            elif _UID.fullmatch(entry):
                uids.add(bytes.fromhex(entry))
            else:
                domains.add(_domain(entry))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {entry[:200]!r} is not an http(s) URL, a domain such as "
                "example.org, a SHA-256 of 64 hex digits or a uid of 32; correct or remove the line"
            ) from None
    digest = hashlib.sha256(content).hexdigest()
    return Takedown(digest, frozenset(urls), frozenset(domains), frozenset(images), frozenset(uids))


def merge(lists: Iterable[Takedown]) -> Takedown:
    """One list with the entries of all; its `sha256` is of its `text`, so equal entries agree."""
    every = tuple(lists)
    merged = Takedown(
        "",
        frozenset(url for one in every for url in one.urls),
        frozenset(domain for one in every for domain in one.domains),
        frozenset(image for one in every for image in one.images),
        frozenset(uid for one in every for uid in one.uids),
    )
    return replace(merged, sha256=hashlib.sha256(merged.text().encode()).hexdigest())


def _domain(text: str) -> str:
    """A domain as `normalise_url` spells it; raises ValueError."""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        host = text.rstrip(".").encode("idna").decode().lower()
    labels = host.split(".")
    # One label is a typing error far more often than all of `.org`.
    if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(text)
    return host
