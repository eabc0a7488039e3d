import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crawl.consent.takedown import Takedown, merge, read_takedown

IMAGE = hashlib.sha256(b"the bytes of an image").digest()
LIST = f"""\
# asked for by mail, 3 May

https://Example.com:443/a/%7Eb.jpg?x=1#top   # one picture
example.org
  EXAMPLE.NET.
bücher.example
192.0.2.7
[2001:DB8::1]
{IMAGE.hex().upper()} # one image, wherever it is
"""


@pytest.fixture
def listed(tmp_path) -> Takedown:
    path = tmp_path / "takedown.txt"
    path.write_text(LIST)
    return read_takedown(str(path))


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://example.com/a/~b.jpg?x=1", "https://example.com/a/~b.jpg?x=1"),
        ("HTTPS://example.com/a/%7eb.jpg?x=1#else", "https://example.com/a/~b.jpg?x=1"),
        ("http://example.org/x", "example.org"),
        ("https://img.cdn.example.org:8443/x", "example.org"),
        ("http://example.net/", "example.net"),
        ("http://www.bücher.example/a", "xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/a", "xn--bcher-kva.example"),
        ("http://192.0.2.7/a", "192.0.2.7"),
        ("http://[2001:db8::1]:81/a", "2001:db8::1"),
    ],
)
def test_listed_urls_and_domains(listed, url, entry):
    assert listed.forbids_url(url) == ("takedown_list", entry)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org./x",
        "http://a.example.org./x",
        "http://EXAMPLE.org:8080/./x",
        "http://127.0.0.1./",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1:81/a",
    ],
)
def test_a_host_is_listed_in_every_spelling(tmp_path, url):
    path = tmp_path / "takedown.txt"
    path.write_text("example.org\n127.0.0.1\n")
    assert read_takedown(str(path)).forbids_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a/~b.jpg",
        "https://example.com/a/~b.jpg?x=1&y=2",
        "http://example.com/a/~b.jpg?x=1",
        "http://notexample.org/",
        "http://example.org.evil.example/",
        "http://h/?u=http://example.org/",
        "http://192.0.2.70/a",
        "ftp://example.org/a",
        "not a url",
    ],
)
def test_urls_that_are_not_listed(listed, url):
    assert listed.forbids_url(url) is None


def test_a_listed_image_is_known_by_its_bytes(listed):
    assert listed.forbids_sha256(IMAGE) == ("takedown_list", IMAGE.hex())
    assert listed.forbids_sha256(hashlib.sha256(b"another").digest()) is None
    with pytest.raises(ValueError, match="32 bytes"):
        listed.forbids_sha256(b"the bytes of an image")


def test_the_fingerprint_is_of_the_content(listed):
    assert listed.sha256 == hashlib.sha256(LIST.encode()).hexdigest()
    assert pickle.loads(pickle.dumps(listed)) == listed


def test_without_a_file_nothing_is_listed():
    empty = read_takedown(None)
    assert empty.forbids_url("http://example.org/") is None
    assert empty.forbids_sha256(IMAGE) is None
    assert empty.sha256 == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        "example",
        "*.example.org",
        "example.org/path",
        "example.org, example.net",
        "https://",
        "ftp://example.org/a",
        "http://exa mple.org",
        "https://example.org/a https://example.org/b",
        "-bad-.example",
        "a..example",
        "." * 70,
        "é" * 64 + ".example",
        IMAGE.hex()[:-1],
        IMAGE.hex() + "0",
        "mailto:owner@example.org",
        "\ufffd.example\x00",
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "takedown.txt"
    path.write_text(f"# ours\nexample.org\n{line}  # what?\n")
    with pytest.raises(ValueError, match=r"takedown\.txt, line 3: .* is not an http") as error:
        read_takedown(str(path))
    assert repr(line)[1:40] in str(error.value)


def test_any_filesystem_and_line_end(tmp_path):
    import fsspec

    with fsspec.open("memory://lists/takedown.txt", "wb") as stream:
        stream.write(b"\xef\xbb\xbfexample.org\r\nexample.net\rexample.com")
    listed = read_takedown("memory://lists/takedown.txt")
    assert listed.domains == {"example.org", "example.net", "example.com"}
    with pytest.raises(FileNotFoundError):
        read_takedown(str(tmp_path / "none.txt"))


def _reread(found: Takedown, directory) -> Takedown:
    path = directory / "written.txt"
    path.write_text(found.text())
    return read_takedown(str(path))


def test_what_is_written_is_read_again(listed, tmp_path):
    assert merge([_reread(listed, tmp_path)]) == merge([listed])
    assert _reread(listed, tmp_path) == merge([listed])
    assert "asked for" not in listed.text()


def test_merged_lists_have_the_entries_of_all(listed, tmp_path):
    path = tmp_path / "other.txt"
    path.write_text(f"other.example\n{'ab' * 16}\nexample.org\n")
    other = read_takedown(str(path))
    both = merge([listed, other])
    assert both == merge([other, listed, other])
    assert both.domains == listed.domains | {"other.example"}
    assert (both.urls, both.images, both.uids) == (listed.urls, {IMAGE}, {b"\xab" * 16})
    assert merge([]) == read_takedown(None)


_ENTRIES = st.sampled_from(LIST.splitlines()) | st.text(
    st.characters(codec="utf-8", exclude_characters="\n"), max_size=20
).map(lambda end: f"http://example.org/{end}")


@given(st.lists(_ENTRIES, max_size=5))
def test_any_list_that_is_read_is_read_again(tmp_path_factory, entries):
    directory = tmp_path_factory.mktemp("lists")
    path = directory / "takedown.txt"
    path.write_bytes("\n".join(entries).encode())
    try:
        found = read_takedown(str(path))
    except ValueError:
        return
    assert _reread(found, directory) == merge([found])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lists") / "takedown.txt"
    path.write_bytes(content)
    try:
        found = read_takedown(str(path)).sha256
    except ValueError as error:
        found = str(error)
    assert found == hashlib.sha256(content).hexdigest() or "correct or remove the line" in found
