import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.crawl.found import MAX_URL_CHARS
from pipelines.crawl.sources.charsets import decode
from pipelines.crawl.sources.html import Base, Image, Page, parse_page
from pipelines.crawl.sources.image_address import largest_of_srcset
from pipelines.crawl.sources.parser_process import PARSE_SECONDS, PageError, parse_untrusted

PAGE = "http://site.example/a/page.html"


def images(body: str, content_type: str = "") -> list[Image]:
    return parse_page(body.encode(), PAGE, content_type).images


@pytest.mark.parametrize(
    ("tag", "url"),
    [
        ('<img src="b.png" alt="x">', "http://site.example/a/b.png"),
        ('<img src="/b.png" alt="x">', "http://site.example/b.png"),
        ('<img src="//cdn.example/b.png" alt="x">', "http://cdn.example/b.png"),
        ('<IMG ALT=x SRC="https://o.example/b.png?a=1&amp;b=2">', "https://o.example/b.png?a=1&b=2"),
        ('<img src="data:image/gif;base64,AA" data-src="b.png" alt="x">', "http://site.example/a/b.png"),
        ('<img src="s.png" data-original="b.png" alt="x">', "http://site.example/a/b.png"),
        ('<img src="s.png" srcset="m.png 300w, b.png 900w" alt="x">', "http://site.example/a/b.png"),
        ('<img src="s.png" data-srcset="b.png 2x" alt="x">', "http://site.example/a/b.png"),
        ('<img src="s.png" srcset="data:image/gif;base64,AA 2x" alt="x">', "http://site.example/a/s.png"),
    ],
)  # fmt: skip
def test_addresses(tag, url):
    assert images(tag) == [Image(url, "x")]


@pytest.mark.parametrize(
    "tag",
    [
        '<img src="a.png">',
        '<img src="a.png" alt="  ">',
        '<img alt="x">',
        '<img src="data:image/png;base64,AA" alt="x">',
        '<img src="ftp://h/a.png" alt="x">',
        '<img src="javascript:alert(1)" alt="x">',
        '<img src="http://[broken/a.png" alt="x">',
        '<img src="a.gif" width="1" height="1" alt="x">',
        '<img src="a.gif" width="2px" alt="x">',
        '<!-- <img src="a.png" alt="x"> -->',
    ],
)
def test_no_candidates(tag):
    assert images(tag) == []


def test_base_holds_for_every_image_and_text_is_decoded():
    body = '<base href="/b/"><img src="1.png" alt="a &amp; b\n  &#x2014; c"><img src=2.png alt=d>'
    assert images(body) == [
        Image("http://site.example/b/1.png", "a & b — c"),
        Image("http://site.example/b/2.png", "d"),
    ]


def test_charsets_come_from_the_header_then_the_page():
    tag = '<img src="a.png" alt="Füße">'
    assert (
        parse_page(tag.encode("latin-1"), PAGE, "text/html; charset=ISO-8859-1").images[0][1]
        == "Füße"
    )
    meta = f'<meta charset="windows-1252">{tag}'.encode("cp1252")
    assert parse_page(meta, PAGE, "text/html; charset=no-such").images[0].caption == "Füße"
    assert parse_page(tag.encode(), PAGE).images[0].caption == "Füße"


def test_srcset_with_commas_in_addresses():
    assert largest_of_srcset("a,b/1.png 1x, c,d/2.png 2.5x,") == "c,d/2.png"
    assert largest_of_srcset("only.png") == "only.png"
    assert largest_of_srcset("  ") is None


@pytest.mark.parametrize(
    ("tag", "url"),
    [
        ('<img data-srcset="s.png 1x, b.png 3x" src="x.gif" alt=x>', "b.png"),
        ('<img data-lazy="true" data-src="{{u}}" data-url="b.png" src="x.gif" alt=x>', "b.png"),
        ('<img data-hi-res-src="b.png" data-src="m.png" src="x.gif" alt=x>', "b.png"),
        ('<img data-lazy-src="b.png" src="data:image/gif;base64,AA" alt=x>', "b.png"),
        ("<picture><source srcset='w.webp 200w, b.webp 800w' type=image/webp>"
         "<source srcset='v.svg 9000w' type=image/svg+xml><source srcset='j.jxl 9000w' "
         "type='image/jxl'><img src=s.png srcset='m.png 400w' alt=x></picture>", "b.webp"),
        ("<picture><source srcset=v type=image/svg+xml><img src=s.png alt=x></picture>", "s.png"),
        ("<picture><source srcset=v type=image/avif><img src=s.png alt=x></picture>", "s.png"),
        ("<picture><source srcset=b media='(min-width:9px)'><img src=s alt=x></picture>", "b"),
        ("<noscript><img src=n.png alt=x></noscript>", "n.png"),
        ("<head><noscript><img src=n.png alt=x></noscript></head>", "n.png"),
    ],
)  # fmt: skip
def test_the_largest_address_is_taken(tag, url):
    assert images(tag) == [Image(f"http://site.example/a/{url}", "x")]


@pytest.mark.parametrize(
    ("body", "captions"),
    [
        ("<figure><img src=a><figcaption>One <b>two</b>.<p>three</figcaption></figure>",
         ["One two. three"]),
        ("<figure><img src=a alt=x><figcaption>y</figcaption></figure>", ["x", "y"]),
        ("<figure><img src=a alt=' x '><figcaption>x\n</figcaption></figure>", ["x"]),
        ("<figure><figcaption>y</figcaption><div><a><img src=a alt=''></a></div></figure>", ["y"]),
        ("<figure><img src=a></figure><figcaption>y</figcaption>", []),
        ("<figure><figure><img src=a><figcaption>in</figcaption></figure>"
         "<figcaption>out</figcaption></figure>", ["in"]),
        ("<figure><img src=a width=1><figcaption>y</figcaption></figure>", []),
        ("<figure><img src=a><figcaption><script>no</script> yes</figcaption></figure>", ["yes"]),
    ],
)  # fmt: skip
def test_figure_captions(body, captions):
    assert [image.caption for image in images(body)] == captions
    assert {image.url for image in images(body)} <= {"http://site.example/a/a"}


def test_styled_tracking_pixels_are_left_out():
    assert images('<img src=a alt=x style="display:block; WIDTH: 1px">') == []
    assert len(images('<img src=a alt=x style="max-width:1px;border-width:2px">')) == 1


def test_metas_are_returned():
    page = parse_page(
        b"<meta name=robots content='noai, x'><meta charset=utf-8><meta name=A>", PAGE
    )
    assert page == Page([], [("robots", "noai, x"), ("A", "")])


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("é".encode("utf-16"), "text/html; charset=utf-8", "é"),
        (b"\xef\xbb\xbf\xc3\xa9", "text/html; charset=latin-1", "é"),
        (b"\x93x\x94", "text/html; charset=iso-8859-1", "“x”"),
        ("日本".encode("shift_jis"), "text/html; charset=Shift_JIS", "日本"),
        ("中".encode("gb18030"), "text/html; charset=gb2312", "中"),
        (b"<meta charset=utf-16>\xc3\xa9", "", "<meta charset=utf-16>é"),
        *[(b"\xc3\xa9", f"text/html; charset={name}", "é")
          for name in ("punycode", "idna", "undefined", "unicode_escape", "base64", "utf-7", "no")],
        (b"\xff\xc3\xa9", "", "\ufffdé"),
    ],
)  # fmt: skip
def test_encodings(body, content_type, text):
    assert decode(body, content_type) == text


ADDRESSES = st.lists(
    st.sampled_from(
        ["a", "b.png", "/", "//", ".", "..", "?", "#", ";", ":", "%20", " ", "é", "http:", "https://",
         "h.example", "x=1", "&", "\\", "[", "@", "\n", "-", ","]
    ),
    max_size=7,
).map("".join)  # fmt: skip


@settings(max_examples=700)
@given(ADDRESSES, ADDRESSES | ADDRESSES.map("http://o.example/".__add__))
@example("/a//b", "c")
@example("/a/b;x", "c")
@example("/a/../b/", "c")
@example("?q=/x/", "c")
def test_addresses_are_joined_as_by_the_standard_library(path, address):
    base = Base(f"https://site.example{path}")
    # On a page whose own address is broken, only whole addresses are known.
    if base.join_slowly("x") is not None:
        assert base.join(address) == base.join_slowly(address)


@settings(max_examples=200)
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [b"<img ", b"alt=", b"src=a ", b"srcset='", b"'", b">", b"<figure>", b"<figcaption>",
             b"<base ", b"href=", b"<picture>", b"<source ", b"<meta name=a charset=", b"utf-16 ",
             b"\xff\xfe", b"\0", b"<table>", b"<select>", b"<svg>", b"<template>", b"<!--",
             b"&#xD800;", b"width=", b"9" * 5000]
        ),
        max_size=30,
    ).map(b"".join),
    st.text(max_size=20),
)  # fmt: skip
def test_no_bytes_raise(body, text):
    page = parse_page(body, text, text)
    assert parse_untrusted(body, text, text) == page
    assert all(url.lower().startswith("http") and caption for url, caption in page.images)


FONTS = "".join(f"<font a{n}>" for n in range(4000))


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ("<div>" * 100_000, "5 s"),
        (f"<p>{FONTS}" + "<p>x" * 4000, "memory"),
    ],
    ids=["div", "font"],
)
def test_pages_made_to_be_slow_or_large_end_at_the_limit(body, limit):
    start = time.monotonic()
    with pytest.raises(PageError, match=limit):
        parse_untrusted(body.encode(), PAGE)
    assert time.monotonic() - start < PARSE_SECONDS + 2


def test_large_pages_without_harm_are_read():
    assert parse_untrusted(b"<img" * 1_300_000, PAGE) == Page([], [])
    page = parse_untrusted("<p><img src=ä.png alt='ü\0'>".encode() * 50_000, PAGE)
    assert page.images == [Image("http://site.example/a/ä.png", "ü\ufffd")] * 50_000


def test_a_long_caption_of_many_images_crosses_the_process_once():
    caption = "xy" * 20_000
    images = "".join(f"<img src={n}>" for n in range(2_000))
    body = f"<figure><figcaption>{caption}</figcaption>{images}</figure>".encode()
    found = parse_untrusted(body, PAGE).images
    assert len(found) == 2_000
    assert all(image.caption is found[0].caption for image in found)
    assert found[0].caption == caption


def test_pages_that_give_more_than_fits_fail():
    long = f"<base href='http://h.example/{'x' * 8_000}/'>"
    with pytest.raises(PageError, match="memory"):
        parse_untrusted((long + "<img src=a alt=x>" * 6_000).encode(), PAGE)
    (image,) = parse_untrusted(f"<img src={'x' * 20_000} alt=x>".encode(), PAGE).images
    assert len(image.url) == MAX_URL_CHARS + 1
