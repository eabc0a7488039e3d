import hashlib
import unicodedata
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines import identity
from pipelines.crawl.found import FOUND, FoundRow, Problem, to_batches

# What the fast code must equal: the rules spelled out, one character at a time.


def slow_caption(caption: str) -> str:
    text = unicodedata.normalize("NFC", caption)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(text.split())


def plain(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()


def slow_row(row: FoundRow) -> dict[str, object]:
    url, caption = plain(row.url), plain(row.caption)
    problem, detail = row.problem, plain(row.detail)
    if problem is None and (url, caption) != (row.url, row.caption):
        problem, detail = Problem.WRONG_ENCODING, "bytes that are not UTF-8"
    if problem is None and not (url and url.strip()):
        problem = Problem.NO_URL
    if problem is None and not (caption and slow_caption(caption)):
        problem = Problem.NO_CAPTION
    if problem is None:
        try:
            url = identity.normalise_any_url(url or "")
        except ValueError as error:
            problem, detail = Problem.INVALID_URL, plain(str(error))
    text = f"broken\0{url}\0{caption}"
    if problem is None:
        text = f"{identity.normalise_any_url(url or '')}\0{slow_caption(caption or '')}"
    return {
        "uid": hashlib.sha256(text.encode()).digest()[:16],
        "url": url,
        "page_url": plain(row.page_url),
        "caption_raw": caption,
        "source": "s",
        "snapshot": None,
        "url_hash": int.from_bytes(hashlib.sha256((url or "").encode()).digest()[:4], "big"),
        "problem": problem,
        "detail": detail,
    }


ANY_TEXT = st.text(st.characters(blacklist_categories=()), max_size=30)
URL_PIECES = st.sampled_from(
    ["http://", "https://", "HTTP://", "//", "/", ":80", ":443", ":8080", ":080", ":99999", "@",
     "?", "#", ";", "%20", "%2f", "%7E", "%e4", "%", "%zz", "h.example", "H.Example", "ä.example",
     "[::1]", "xn--4ca", "a" * 64, "_a-b", "A b", "+", "é", "\t", "\n", "\0", "'", '"', "|", ".."]
)  # fmt: skip
URLS = st.lists(URL_PIECES, max_size=8).map("".join) | ANY_TEXT
SPACES = st.lists(
    st.sampled_from(
        ["a", " ", "\t", "\n", "\x85", "\u2028", "\u00a0", "\u0308", "\u200b", "\u3000"]
    )
).map("".join)
HTTP_URLS = URLS.map("http://h.example/".__add__) | URLS.map("https://h.example".__add__)


@settings(max_examples=700)
@given(URLS | HTTP_URLS)
@example("http://h.example/a?")
@example("https://h.example:443/")
@example("http://h.example:443/a//b;c?x?y")
@example("http://h.example/%C3%A4%2F")
@example("http://h.example/\n")
def test_urls_are_normalised_as_by_the_slow_rules(url):
    assert tried(identity.normalise_url, url) == tried(identity.normalise_any_url, url)


def tried(normalise: Callable[[str], str], url: str) -> tuple[str, str]:
    try:
        return "is", normalise(url)
    except ValueError as error:
        return "refused", str(error)


@settings(max_examples=500)
@given(ANY_TEXT | SPACES)
def test_captions_are_normalised_as_by_the_slow_rules(caption):
    assert identity.normalise_caption(caption) == slow_caption(caption)


ROWS = st.builds(
    FoundRow,
    st.none() | URLS | HTTP_URLS,
    st.none() | ANY_TEXT,
    st.none() | ANY_TEXT,
    st.none() | st.sampled_from(Problem),
    st.none() | ANY_TEXT,
)


@settings(max_examples=100)
@given(st.lists(ROWS, max_size=8), st.integers(1, 4))
def test_rows_in_columns_are_the_same_as_one_by_one(rows, batch_rows):
    batches = list(to_batches(rows, "s", None, batch_rows))
    assert all(batch.schema == FOUND for batch in batches)
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    described = [row for batch in batches for row in batch.to_pylist()]
    times = [row.pop("found_at") for row in described]
    assert described == [slow_row(row) for row in rows]
    assert times == sorted(times)


def test_texts_that_are_too_long_are_problems_and_cut():
    url, caption = "http://h.example/", "é" * 10_000
    rows = [
        FoundRow(url, caption),
        FoundRow(url, caption + "x"),
        FoundRow(url + "x" * 8_192, "x"),
        FoundRow(url + "ä" * 4_000, "x"),
        FoundRow(None, None, None, Problem.PAGE_FAILED, "x" * 50_000),
    ]
    (batch,) = to_batches(rows, "s", None, 10)
    good, long, *urls, failed = batch.to_pylist()
    assert (good["problem"], good["caption_raw"]) == (None, caption)
    assert (long["problem"], long["caption_raw"]) == (Problem.CAPTION_TOO_LONG, caption[:1000])
    assert long["detail"] == "10001 characters are more than 10000"
    for row in urls:
        assert row["problem"] == Problem.INVALID_URL
        assert row["detail"] == "more than 8192 characters"
        assert len(row["url"]) <= 8_192
    assert len(failed["detail"]) == 1_000


def test_batches_end_where_their_texts_are_many():
    text = "x" * 10_000
    rows = (FoundRow(f"http://h.example/{n}", text) for n in range(7_000))
    batches = [batch.num_rows for batch in to_batches(rows, "s", None, 100_000)]
    assert sum(batches) == 7_000
    assert len(batches) == 3
