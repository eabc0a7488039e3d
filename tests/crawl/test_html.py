import pytest

from pipelines.crawl.html import Image, extract_images, largest_of_srcset

PAGE = "http://site.example/a/page.html"


def images(body: str, content_type: str = "") -> list[Image]:
    return extract_images(body.encode(), PAGE, content_type)


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
        extract_images(tag.encode("latin-1"), PAGE, "text/html; charset=ISO-8859-1")[0][1] == "Füße"
    )
    meta = f'<meta charset="windows-1252">{tag}'.encode("cp1252")
    assert extract_images(meta, PAGE, "text/html; charset=no-such")[0].caption == "Füße"
    assert extract_images(tag.encode(), PAGE)[0].caption == "Füße"


def test_srcset_with_commas_in_addresses():
    assert largest_of_srcset("a,b/1.png 1x, c,d/2.png 2.5x,") == "c,d/2.png"
    assert largest_of_srcset("only.png") == "only.png"
    assert largest_of_srcset("  ") is None
