import bz2
import csv
import gzip
import io

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.crawl.batches import ListFormat, Source, SourceKind
from pipelines.crawl.sources.recognise import source_of
from pipelines.crawl.sources.url_lists import ListError, read_list

YFCC = "\t".join(
    ["1", "u", "n", "d", "t", "c", "A+cat", "", "", "", "", "", "", "http://f/p", "http://f/1.jpg",
     "l", "http://l", "1", "1", "a", "b", "jpg", "0"]
)  # fmt: skip
PAGE = "<!DOCTYPE html><html><body><img src=a.png alt=a></body></html>"


def recognised(tmp_path, data, **options):
    path = tmp_path / "input"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return source_of(str(path), "s", **options)


def first_pair(source):
    row = next(iter(read_list(source.paths[0], source)))
    return row.url, row.caption


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, zstandard.compress])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat, b\thttp://h/1\nhttp\thttp://h/2\n",
         {"format": ListFormat.TSV, "columns": ("caption", "url")}),
        ("http://h/1\ta cat, b\nhttp://h/2\tb\n",
         {"format": ListFormat.TSV, "columns": ("url", "caption")}),
        ("caption\turl\na cat, b\thttp://h/1\n", {"format": ListFormat.TSV}),
        ('url,caption,w\nhttp://h/1,"a cat, b",3\n', {"format": ListFormat.CSV}),
        ('http://h/1,"a cat, b"\n', {"format": ListFormat.CSV, "columns": ("url", "caption")}),
        ("id;image_url;text\n1;http://h/1;a cat, b\n",
         {"format": ListFormat.CSV, "delimiter": ";"}),
        ("http://h/1|a cat, b\nhttp://h/2|c, d\n",
         {"format": ListFormat.CSV, "delimiter": "|", "columns": ("url", "caption")}),
        ('url\ttext\nhttp://h/1\t"a cat, b"\nhttp://h/2\t"say ""b"""\n',
         {"format": ListFormat.CSV, "delimiter": "\t"}),
        ("link,wort\nhttp://h/1,\"a cat, b\"\n",
         {"format": ListFormat.CSV, "url_column": "link", "caption_column": "wort"}),
        ('\n{"url": "http://h/1", "text": "a cat, b"}\n', {"format": ListFormat.JSONL}),
        ("<b>x</b>\thttp://h/0\n", {"format": ListFormat.TSV, "columns": ("caption", "url")}),
        ("url,caption\n", {"format": ListFormat.CSV}),
    ],
)  # fmt: skip
def test_lists_are_told_by_their_content(tmp_path, pack, text, expected):
    source = recognised(tmp_path, pack(text.encode()))
    path = str(tmp_path / "input")
    assert source == Source("s", SourceKind.URL_LIST, (path,), **expected)
    if "a cat" in text:
        assert first_pair(source) == ("http://h/1", "a cat, b")


def test_long_lists_are_told_by_their_first_kilobytes(tmp_path):
    rows = [(f"caption no. {n}, wide", f"http://h/{n}") for n in range(20_000)]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    source = recognised(tmp_path, text.getvalue().encode("utf-16"))
    assert (source.format, source.columns) == (ListFormat.CSV, ("caption", "url"))
    assert first_pair(source) == ("http://h/0", "caption no. 0, wide")
    assert sum(1 for _ in read_list(source.paths[0], source)) == 20_000


def test_parquet_yfcc_and_archives(tmp_path):
    table = pa.table({"URL": ["http://h/1"], "TEXT": ["x"]})
    pq.write_table(table, tmp_path / "p")
    assert source_of(f"{tmp_path}/p", "s").format is ListFormat.PARQUET
    pq.write_table(table.rename_columns(["link", "x"]), tmp_path / "p")
    with pytest.raises(ListError, match="link, x: set url_column"):
        source_of(f"{tmp_path}/p", "s")
    named = source_of(f"{tmp_path}/p", "s", url_column="link", caption_column="x")
    assert first_pair(named) == ("http://h/1", "x")
    assert recognised(tmp_path, bz2.compress(f"{YFCC}\n".encode())).format is ListFormat.YFCC100M
    for zipped in (False, True):
        out = io.BytesIO()
        writer = WARCWriter(out, gzip=zipped)
        head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
        page = io.BytesIO(PAGE.encode())
        writer.write_record(
            writer.create_warc_record("http://h/", "response", payload=page, http_headers=head)
        )
        source = recognised(tmp_path, out.getvalue(), snapshot="2024-10")
        path = str(tmp_path / "input")
        assert source == Source("s", SourceKind.WEB_ARCHIVE, (path,), snapshot="2024-10")


def test_saved_pages_need_their_web_address(tmp_path):
    with pytest.raises(ListError, match="web address that they were saved from, as BASE_URL=PATH"):
        recognised(tmp_path, PAGE)
    source = recognised(tmp_path, f"\ufeff\n{PAGE}", base_url="http://h/")
    assert (source.kind, source.base_url) == (SourceKind.HTML_FILES, "http://h/")
    site = tmp_path / "site" / "deep"
    site.mkdir(parents=True)
    (site / "a.html").write_text(PAGE)
    (site / "a.png").write_bytes(b"\x89PNG\0")
    source = source_of(str(tmp_path / "site"), "s", base_url="http://h/")
    assert (source.kind, source.paths) == (SourceKind.HTML_FILES, (str(tmp_path / "site"),))


def test_directories_and_globs_of_lists_are_one_source(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("b.tsv", "a.tsv"):
        (lists / name).write_text("a cat\thttp://h/1\n")
    (lists / "_SUCCESS").write_text("")
    (lists / ".a.tsv.crc").write_bytes(b"crc\0")
    expected = Source(
        "s", SourceKind.URL_LIST, (f"{lists}/a.tsv", f"{lists}/b.tsv"), ListFormat.TSV,
        ("caption", "url"),
    )  # fmt: skip
    assert source_of(str(lists), "s") == source_of(f"{lists}/*.tsv", "s") == expected
    (lists / "c.csv").write_text("url,caption\nhttp://h/1,x\n")
    with pytest.raises(ListError, match="files of different kinds"):
        source_of(str(lists), "s")
    assert len(source_of(f"{lists}/*.tsv", "s").paths) == 2
    with pytest.raises(ListError, match="holds no files"):
        source_of(f"{lists}/*.parquet", "s")


def test_lists_in_memory():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/rec/a.csv", b"url,caption\nhttp://h/1,x\n")
    memory.pipe_file("/rec/.hidden", b"\0")
    source = source_of("memory://rec", "s")
    assert source.paths == ("memory:///rec/a.csv",)
    assert first_pair(source) == ("http://h/1", "x")


@pytest.mark.parametrize(
    ("url", "kind", "format"),
    [
        ("https://h/", SourceKind.WEB_PAGES, None),
        ("https://h/a.html?x=.csv", SourceKind.WEB_PAGES, None),
        ("https://h/sitemap.xml.gz", SourceKind.SITEMAP, None),
        ("https://h/CC-MAIN-1.warc.wat.gz", SourceKind.WEB_ARCHIVE, None),
        ("https://h/CC-MAIN-1.warc.gz", SourceKind.WEB_ARCHIVE, None),
        ("https://h/a.parquet?download=true", SourceKind.URL_LIST, ListFormat.PARQUET),
        ("https://h/a.csv.zst", SourceKind.URL_LIST, ListFormat.CSV),
    ],
)
def test_web_addresses_are_told_by_their_suffix(url, kind, format):
    assert source_of(url, "s") == Source("s", kind, (url,), format)


def test_what_is_said_goes_first(tmp_path):
    text = "a cat\thttp://h/1\thttp://p/\nb\thttp://h/2\thttp://p/\n"
    with pytest.raises(ListError, match="3 columns and no header: set columns to their names"):
        recognised(tmp_path, text)
    source = recognised(tmp_path, text, columns=("text", "image", "page"), url_column="image")
    assert first_pair(source) == ("http://h/1", "a cat")
    said = source_of("http://h/list", "s", format=ListFormat.JSONL)
    assert (said.kind, said.format) == (SourceKind.URL_LIST, ListFormat.JSONL)
    source = recognised(tmp_path, "url,caption\nhttp://h/1,x\n", format=ListFormat.CSV)
    assert first_pair(source) == ("http://h/1", "x")
    source = recognised(tmp_path, "a,b\nhttp://h/1,x\n", url_column="a", caption_column="b")
    assert first_pair(source) == ("http://h/1", "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary file of no known format"),
        (b"<urlset><url><loc>http://h/</loc></url></urlset>", "give its http"),
        (b"<rss/>", "set format to csv, tsv"),
        (b'[{"url": 1}]', "JSON array"),
        (b"some words\nand more\n", "set format to csv, tsv"),
        (b"http://h/1\nhttp://h/2\n", "URLs without captions"),
        (b"a,b,c\nx,http://h/1,y\n", "set caption_column"),
        (b"\x1f\x8bbroken", "damaged from the start"),
    ],
)
def test_what_cannot_be_recognised_says_what_to_give(tmp_path, data, words):
    with pytest.raises(ListError, match=words):
        recognised(tmp_path, data)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ListError, match="not there; check the path"):
        source_of(f"{tmp_path}/nothing.csv", "s")


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=300)
    | st.binary(max_size=100).map(lambda tail: "url,caption\n".encode("utf-16") + tail)
    | st.text('url,caption\t\n"{}[]<>: htp/\ud800;|é', max_size=300).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
)
def test_arbitrary_bytes_are_a_source_that_reads_or_a_list_error(data):
    fsspec.filesystem("memory").pipe_file("/rec-fuzz", data)
    try:
        source = source_of("memory://rec-fuzz", "s", base_url="http://h/")
    except ListError:
        return
    if source.kind is SourceKind.URL_LIST:
        list(read_list(source.paths[0], source))


def test_a_file_whose_name_holds_a_star_goes_before_a_glob(tmp_path):
    starred = tmp_path / "a*.csv"
    starred.write_text("url,caption\nhttp://h/1,star\n")
    (tmp_path / "ab.tsv.csv").write_text("url\tcaption\nhttp://h/2\tother\n")
    source = source_of(str(starred), "s")
    assert source.paths == (str(starred),)
    assert first_pair(source) == ("http://h/1", "star")
    starred.unlink()
    assert source_of(str(starred), "s").paths == (str(tmp_path / "ab.tsv.csv"),)
