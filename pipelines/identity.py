"""Normalised URLs and captions, and the uid made of them."""

import hashlib
import ipaddress
import re
import socket
import unicodedata
from urllib.parse import quote, urlsplit, urlunsplit

from pipelines.schemas import UID_BYTES

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Characters that RFC 3986 allows in a path or query as they are; `%` keeps escapes.
_SAFE = "/:@!$&'()*+,;=-._~%"
# What `normalise_url` would give back as it is, which most URLs of the web are: host in lower case,
# a path, no default port, no fragment, and no escape but upper-case ones of reserved characters.
_ESCAPE = r"%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-DF])"
_KEPT = r"A-Za-z0-9/:@!$&'()*+,;=._~\-"
_NORMAL = re.compile(
    r"(?:http://(?![^/?]*:80/)|https://(?![^/?]*:443/))"
    # A last label that begins with a digit may be a part of an address in disguise.
    r"(?:[a-z0-9_-]{1,63}\.)*[a-z][a-z0-9_-]{0,62}(?::[1-9][0-9]{0,3})?"
    rf"/[{_KEPT}]*(?:{_ESCAPE}[{_KEPT}]*)*(?:\?(?=.)[{_KEPT}?]*(?:{_ESCAPE}[{_KEPT}?]*)*)?"
)
# An escape, or a bare `%`, which stands for itself.
_PERCENT = re.compile("%([0-9A-Fa-f]{2})?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
# Unicode categories Cc, Zl and Zp.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def normalise_url(url: str) -> str:
    """The one spelling of an http(s) URL (RFC 3986, section 6.2.2 and 6.2.3).

    Scheme and host in lower case (host in IDNA, without a dot at its end, an IPv4 address as four
    decimal numbers), default port and fragment removed, an empty path made `/`, dot segments
    resolved, unreserved escapes decoded, everything else percent-encoded, a bare `%` too.

    Raises:
        ValueError: if it is not an absolute http(s) URL with a host.
    """
    if "/." not in url and _NORMAL.fullmatch(url):
        return url
    return normalise_any_url(url)


def normalise_any_url(url: str) -> str:
    """`normalise_url` without its short cut for URLs that are normal already."""
    parts = urlsplit(url.strip())
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"not an absolute http(s) URL: {url[:200]!r}")
    host = _host(parts.hostname)
    port = "" if parts.port in (None, _DEFAULT_PORTS[scheme]) else f":{parts.port}"
    path = quote(_without_dot_segments(_decode_unreserved(parts.path)), safe=_SAFE) or "/"
    query = quote(_decode_unreserved(parts.query), safe=_SAFE + "?")
    return urlunsplit((scheme, host + port, path, query, ""))


def _host(name: str) -> str:
    try:
        host = name.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError as error:
        raise ValueError(f"not a host name: {name[:200]!r}") from error
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host)}]"
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # As browsers read it: 127.1, 0x7f.1 and 2130706433 are one address.
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError as error:
            raise ValueError(f"not a host name: {name[:200]!r}") from error
    if not host or host.endswith("."):
        raise ValueError(f"not a host name: {name[:200]!r}")
    return host


def _without_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4: what a server would be asked for in any case."""
    if "/." not in path:
        return path
    segments = path.split("/")[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _decode_unreserved(text: str) -> str:
    return _PERCENT.sub(_unreserved, text)


def _unreserved(percent: re.Match[str]) -> str:
    if not percent[1]:
        return "%25"
    char = chr(int(percent[1], 16))
    if char.isascii() and (char.isalnum() or char in "-._~"):
        return char
    return percent[0].upper()


def normalise_caption(caption: str) -> str:
    """Unicode NFC, control characters out, runs of white space made one space."""
    text = caption if caption.isascii() else unicodedata.normalize("NFC", caption)
    # Printable text holds no white space but the space.
    if not text.isprintable():
        text = _CONTROLS.sub(" ", text)
    return " ".join(text.split())


def uid(url: str, caption: str) -> bytes:
    """Identity of a pair: 16 bytes of SHA-256 over (normalised URL, NUL, normalised caption)."""
    return uid_of_normalised(normalise_url(url), normalise_caption(caption))


def uid_of_normalised(url: str, caption: str) -> bytes:
    """`uid` for who has normalised both already."""
    return hashlib.sha256(f"{url}\0{caption}".encode()).digest()[:UID_BYTES]
