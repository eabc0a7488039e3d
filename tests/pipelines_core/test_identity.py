import string
import unicodedata
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines import schemas
from pipelines.identity import normalise_caption, normalise_url, uid

HOSTS = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z]{2,5}){1,2}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATHS = st.text(string.ascii_letters + string.digits + "/%-._~{[ üñ猫", max_size=20)


@st.composite
def urls(draw: st.DrawFn) -> str:
    scheme = draw(st.sampled_from(["http", "https", "HTTP", "Https"]))
    port = draw(st.sampled_from(["", ":80", ":443", ":8080"]))
    query = draw(st.sampled_from(["", "?a=1&b=%7E", "?q=ü ñ"]))
    return f"{scheme}://{draw(HOSTS)}{port}/{draw(PATHS)}{query}"


@given(urls())
def test_normalising_twice_changes_nothing(url: str) -> None:
    once = normalise_url(url)
    assert normalise_url(once) == once
    assert once.isascii()
    assert not any(character.isspace() for character in once)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("%%61", "%25a"),
        ("%%361", "%2561"),
        ("%a%62", "%25ab"),
        ("%zz", "%25zz"),
        ("%{", "%25%7B"),
        ("%2f", "%2F"),
    ],
)
def test_a_bare_percent_begins_no_escape(path: str, normal: str) -> None:
    assert normalise_url(f"http://0.aa/{path}") == f"http://0.aa/{normal}"
    assert normalise_url(f"http://0.aa/{normal}") == f"http://0.aa/{normal}"


@given(urls(), st.text(string.ascii_letters, max_size=5))
def test_case_of_the_host_fragment_and_space_do_not_matter(url: str, fragment: str) -> None:
    host = urlsplit(url).netloc
    url = url.rstrip()
    variant = f"  {url.replace(host, host.upper(), 1)}#{fragment}\n"
    assert normalise_url(variant) == normalise_url(url)


@given(HOSTS, PATHS)
def test_default_ports_are_the_same_and_others_are_not(host: str, path: str) -> None:
    plain = normalise_url(f"http://{host}/{path}")
    assert normalise_url(f"http://{host}:80/{path}") == plain
    assert normalise_url(f"http://{host}:443/{path}") != plain
    assert normalise_url(f"https://{host}:443/{path}") == normalise_url(f"https://{host}/{path}")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("http://example.org./a", "http://example.org/a"),
        ("http://example.org/a/../b/./c/..", "http://example.org/b/"),
        ("http://example.org/%2e%2E/a/.b?x=/../y", "http://example.org/a/.b?x=/../y"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0x7f.1./a", "http://127.0.0.1/a"),
        ("http://[::FFFF:0001]/", "http://[::ffff:1]/"),
        ("http://example.org/%7euser/%e4%b8%AD", "http://example.org/~user/%E4%B8%AD"),
        ("http://example.org/a b?c d", "http://example.org/a%20b?c%20d"),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/%C3%BC"),
        ("https://example.org:8443/x?y=1#z", "https://example.org:8443/x?y=1"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
        ("http://example.org/100%", "http://example.org/100%25"),
        ("http://example.org/%2Fx", "http://example.org/%2Fx"),
    ],
)
def test_spellings(url: str, wanted: str) -> None:
    assert normalise_url(url) == wanted


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "/a.png", "ftp://example.org/", "data:image/png;base64,AA", "http://",
        "http://example.org:99999/", "http://1.2.3.4.5/", "http://999.1.1.1/", "http://a..",
        "http://[::1/", "javascript:alert(1)", f"http://{'a' * 70}.org/",
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        normalise_url(url)


@given(TEXT)
def test_captions_are_nfc_on_one_line(text: str) -> None:
    found = normalise_caption(text)
    assert normalise_caption(found) == found
    assert unicodedata.is_normalized("NFC", found)
    assert found == found.strip()
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in found)


@given(TEXT, TEXT)
def test_uid_is_of_the_normal_forms(first: str, second: str) -> None:
    url = "http://example.org/a.png"
    found = uid(url, first)
    assert len(found) == schemas.UID_BYTES
    assert found == uid("HTTP://EXAMPLE.org:80/a.png#x", f"  {first}\n")
    assert found == uid(url, unicodedata.normalize("NFD", first))
    assume(normalise_caption(first) != normalise_caption(second))
    assert found != uid(url, second)


def test_uid_is_pinned() -> None:
    # Published rows are joined by this value: it may never change.
    assert uid("http://example.org/a.png", "a cat").hex() == "532e932821cfbcbc922137df4fb4b08d"
