import bz2
import csv
import functools
import gzip
import http.server
import io
import itertools
import json
import lzma
import os
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from urllib.parse import quote_plus

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.crawl.batches import ListFormat, Source, SourceKind
from pipelines.crawl.found import Problem, to_batches
from pipelines.crawl.sources.url_lists import ListError, count_rows, ignored_columns, read_list

PAIRS = [("http://h/1.png", 'one, "two"'), ("http://h/2.png", "drei\tÄ"), ("http://h/3.png", "四")]
COMPRESSORS = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": functools.partial(lzma.compress, preset=0),
    "zstd": zstandard.ZstdCompressor().compress,
}
YFCC_PHOTO = (
    "6985418911\t4e2f7a26a1dfbf165a7e30bdabf7e72a\tguckxzs\t2012-02-16 09:56:37.0\t1331840483\t"
    "Canon+PowerShot+ELPH+310+HS\tCaf%C3%A9+%26+%3Cb%3ETwo%3C%2Fb%3E+cats\t"
    "My+vacation%3Cbr%3EMore+at+%3Ca+href%3D%22http%3A%2F%2Fx%2Fy%22+rel%3D%22nofollow%22%3Ex%2Fy"
    "%3C%2Fa%3E+%26amp%3B+on\tcanon,hs+310\t\t-81.804885\t24.550558\t12\t"
    "http://www.flickr.com/photos/39089491@N00/6985418911/\t"
    "http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg\t"
    "Attribution-NonCommercial-NoDerivs License\t"
    "http://creativecommons.org/licenses/by-nc-nd/2.0/\t7205\t8\tdf7747990d\t692d7e0a7f\tjpg\t0"
)
YFCC_PAIRS = [
    ("http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg", "Café & Two cats"),
    ("http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg",
     "My vacation More at x/y & on"),
]  # fmt: skip


def source(**options) -> Source:
    return Source("s", SourceKind.URL_LIST, ("unused",), **options)


def pairs(path, **options):
    return [(row.url, row.caption) for row in read_list(str(path), source(**options))]


def problems(path, **options):
    batches = to_batches(read_list(str(path), source(**options)), "s", None, 1000)
    return pa.Table.from_batches(list(batches)).column("problem").to_pylist()


def written(kind: str) -> tuple[bytes, list[tuple[str, str]], dict]:
    """A list's bytes, its pairs, and the options that read it."""
    text = io.StringIO()
    if kind == "csv":
        csv.writer(text).writerows([("url", "caption"), *PAIRS])
    elif kind == "tsv":
        text.write("".join(f"{c}\t{u}\n" for u, c in PAIRS if "\t" not in c))
        return text.getvalue().encode(), [PAIRS[0], PAIRS[2]], {"columns": ("caption", "url")}
    elif kind == "jsonl":
        text.write("".join(json.dumps({"url": u, "text": c}) + "\n" for u, c in PAIRS))
    elif kind == "yfcc100m":
        text.write(YFCC_PHOTO + "\n")
        return text.getvalue().encode(), YFCC_PAIRS, {"format": ListFormat.YFCC100M}
    return text.getvalue().encode(), PAIRS, {}


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "yfcc100m"])
def test_each_format_in_each_compression_told_by_its_bytes(tmp_path, kind, compression):
    data, expected, options = written(kind)
    # Two members, as parallel compressors write them; the suffix says nothing.
    half = len(data) // 2
    compress = COMPRESSORS[compression]
    (tmp_path / f"a.{kind}").write_bytes(compress(data[:half]) + compress(data[half:]))
    assert pairs(tmp_path / f"a.{kind}", **options) == expected
    assert count_rows(f"{tmp_path}/a.{kind}", source(**options)) == (
        1 if kind == "yfcc100m" else len(expected)
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_byte_order_marks_tell_the_encoding(tmp_path, encoding):
    data = written("csv")[0].decode().encode(encoding)
    (tmp_path / "a.csv").write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + data)
    assert pairs(tmp_path / "a.csv") == PAIRS


def test_broken_utf_16_is_in_its_rows(tmp_path):
    text = "url,caption\nhttp://h/1,good\nhttp://h/2,b\ud800d\nhttp://h/3,cut"
    data = b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass")
    (tmp_path / "a.csv").write_bytes(data[:-1])
    assert problems(tmp_path / "a.csv") == [None, *[Problem.WRONG_ENCODING] * 2]


def test_jsonl_and_parquet_with_other_column_names(tmp_path):
    rows = [{"URL": url, "TEXT": text, "more": 1} for url, text in PAIRS]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert pairs(tmp_path / "a.jsonl") == pairs(tmp_path / "a.parquet") == PAIRS
    assert pairs(f"file://{tmp_path}/a.parquet", caption_column="URL")[0][1] == "http://h/1.png"
    for name in ("a.jsonl", "a.parquet"):
        assert ignored_columns(f"{tmp_path}/{name}", source()) == ("more",)


def test_columns_that_nothing_is_taken_from_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,url,caption,NSFW\n1,http://h/1,x,2\n")
    assert ignored_columns(f"{tmp_path}/a.csv", source()) == ("id", "NSFW")
    (tmp_path / "b.csv").write_text("")
    assert ignored_columns(f"{tmp_path}/b.csv", source(columns=("url", "x", "text"))) == ("x",)
    (tmp_path / "a.jsonl").write_text('{"url": "http://h/1"}\n{"caption": "x", "sim": 1}\n')
    assert ignored_columns(f"{tmp_path}/a.jsonl", source()) == ("sim",)


def test_conceptual_captions_tsv_has_no_header_and_no_quoting(tmp_path):
    (tmp_path / "a.tsv").write_text('a "quoted start\thttp://h/1.png\n"b\thttp://h/2.png\n')
    assert pairs(tmp_path / "a.tsv", columns=("caption", "url")) == [
        ("http://h/1.png", 'a "quoted start'),
        ("http://h/2.png", '"b'),
    ]


def test_yfcc_with_line_number_and_hash_and_videos(tmp_path):
    identifier, rest = YFCC_PHOTO.split("\t", 1)
    newer = f"0\t{identifier}\t6b8c\t{rest}"
    video = newer[:-1] + "1"
    odd = YFCC_PHOTO[:-1] + "7"
    untitled = YFCC_PHOTO.split("\t")
    untitled[6:8] = "", "%3Cp%3E%3C%2Fp%3E"
    latin = YFCC_PHOTO.replace("Caf%C3%A9", "Caf%E9")
    lines = [newer, video, odd, "a\tb", "\t".join(untitled), latin]
    (tmp_path / "yfcc100m_dataset").write_text("\n".join(lines) + "\n")
    path, options = tmp_path / "yfcc100m_dataset", {"format": ListFormat.YFCC100M}
    rows = list(read_list(str(path), source(**options)))
    assert [(r.url, r.caption) for r in rows[:2]] == YFCC_PAIRS
    assert rows[0].page_url == "http://www.flickr.com/photos/39089491@N00/6985418911/"
    assert problems(path, **options) == [
        None, None, Problem.NOT_A_PICTURE, Problem.BROKEN_ROW, Problem.BROKEN_ROW,
        Problem.NO_CAPTION, Problem.WRONG_ENCODING, None,
    ]  # fmt: skip


def test_quoted_csv_fields_keep_their_lines(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'url,caption\r\nhttp://h/1,"a\r\n\r\nb ""c"""\r\nhttp://h/2,d'
    )
    assert pairs(tmp_path / "a.csv") == [("http://h/1", 'a\n\nb "c"'), ("http://h/2", "d")]


@pytest.mark.parametrize("quoted_later", [False, True])
def test_a_stray_quote_costs_its_own_row(tmp_path, quoted_later):
    lines = [f"http://h/{row},caption {row}" for row in range(1000)]
    lines[1] = 'http://h/1,"an 8" screen'
    if quoted_later:
        lines[500] = 'http://h/500,"caption 500"'
    (tmp_path / "a.csv").write_text("\n".join(["url,caption", *lines]))
    found = problems(tmp_path / "a.csv")
    assert found == [None, Problem.BROKEN_ROW, *[None] * 998]
    lines[1] = 'http://h/1,"no end'
    (tmp_path / "a.csv").write_text("\n".join(["url,caption", *lines]))
    assert problems(tmp_path / "a.csv") == found
    # Far more than a reader may look ahead for the end of a quote.
    more = [*lines[:2], *[line for line in lines if '"' not in line] * 20]
    (tmp_path / "a.csv").write_text("\n".join(["url,caption", *more]))
    assert problems(tmp_path / "a.csv").count(Problem.BROKEN_ROW) == 1
    assert len(pairs(tmp_path / "a.csv")) == len(more)


def test_a_stray_quote_on_every_line_takes_no_longer(tmp_path):
    (tmp_path / "a.csv").write_text("url,caption\n" + 'http://h/1,"no end\n' * 20_000)
    assert problems(tmp_path / "a.csv") == [Problem.BROKEN_ROW] * 20_000


def test_other_separators(tmp_path):
    (tmp_path / "a.csv").write_text("url;caption\nhttp://h/1;a, b\n")
    assert pairs(tmp_path / "a.csv", delimiter=";") == [("http://h/1", "a, b")]
    (tmp_path / "b.tsv").write_text('url\tcaption\nhttp://h/1\t"a ""b"""\n')
    assert pairs(tmp_path / "b.tsv", format=ListFormat.CSV, delimiter="\t")[0][1] == 'a "b"'


def test_broken_rows_cost_themselves_only(tmp_path):
    (tmp_path / "a.tsv").write_bytes(
        b"url\tcaption\nhttp://h/1\tgood\nhttp://h/2\nhttp://h/3\tb\xff\xfed\n"
        b"\tno url\nhttp://h/5\t \nfile:///etc/passwd\tx\n\nhttp://h/7\tgood\n"
        + b"x" * 3_000_000 + b"\nhttp://h/9\tgood"
    )  # fmt: skip
    expected = [
        None, Problem.BROKEN_ROW, Problem.WRONG_ENCODING, Problem.NO_URL, Problem.NO_CAPTION,
        Problem.INVALID_URL, None, Problem.BROKEN_ROW, None,
    ]  # fmt: skip
    assert problems(tmp_path / "a.tsv") == expected
    assert count_rows(f"{tmp_path}/a.tsv", source()) == len(expected)


def test_broken_json_lines_cost_themselves_only(tmp_path):
    good = '{"url": "http://h/1", "caption": "good", "score": NaN}'
    lines = [
        good, '{"url":', "", "[1]", '{"url": 3, "caption": "x"}', "[" * 50_000, good,
        '{"url": "http://h/2", "caption": "\\ud83d"}', '{"url": "http://h/3"}',
        '{"url": "http://h/4", "caption": ["a", "b"]}', '{"url": "http://h/5", "caption": [1]}',
    ]  # fmt: skip
    (tmp_path / "b.jsonl").write_text("{\n" * 200 + good + "\n")
    assert problems(tmp_path / "b.jsonl") == [*[Problem.BROKEN_ROW] * 200, None]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"url": "http://h/\xff"}')
    assert problems(tmp_path / "a.jsonl") == [
        None, *[Problem.BROKEN_ROW] * 4, None, Problem.WRONG_ENCODING, Problem.NO_CAPTION,
        None, None, Problem.BROKEN_ROW, Problem.WRONG_ENCODING,
    ]  # fmt: skip


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
def test_a_truncated_file_gives_the_rows_before_and_one_that_says_where(tmp_path, compression):
    lines = [f"http://h/{row}\tcaption {row * 7919 % 1000}" for row in range(90_000)]
    data = COMPRESSORS[compression]("\n".join(["url\tcaption", *lines]).encode())
    (tmp_path / "a.tsv").write_bytes(data[: -len(data) // 3])
    rows = list(read_list(f"{tmp_path}/a.tsv", source()))
    assert 1000 < len(rows) < 90_000
    expected = [tuple(line.split("\t")) for line in lines[: len(rows) - 1]]
    assert [(row.url, row.caption) for row in rows[:-1]] == expected
    assert rows[-1].problem is Problem.BROKEN_ROW
    assert "compression damaged after" in rows[-1].detail
    assert count_rows(f"{tmp_path}/a.tsv", source()) == len(rows)


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
def test_what_follows_a_compressed_stream_is_not_lost_without_a_word(tmp_path, compression):
    pack = COMPRESSORS[compression]
    data = pack(b"url\tcaption\nhttp://h/1\tx\n")
    (tmp_path / "a.tsv").write_bytes(data + b"no stream of its kind")
    assert problems(tmp_path / "a.tsv") == [None, Problem.BROKEN_ROW]
    (tmp_path / "a.tsv").write_bytes(data + bytes(8) + pack(b"http://h/2\ty\n") + bytes(5000))
    assert len(pairs(tmp_path / "a.tsv")) == 2


def test_parquet_text_of_any_spelling(tmp_path):
    urls = [url for url, _ in PAIRS]
    captions = [caption for _, caption in PAIRS]
    spelled = [
        pa.array(captions, pa.large_string()),
        pa.array(captions).dictionary_encode(),
        pa.array([c.encode() for c in captions], pa.binary()),
        pa.array(captions, pa.string_view()),
    ]
    for column in spelled:
        table = pa.table({"url": pa.array(urls).cast(pa.large_string()), "caption": column})
        pq.write_table(table, tmp_path / "a.parquet")
        assert pairs(tmp_path / "a.parquet") == PAIRS, column.type
    nested = [{"url": u, "meta": {"alt": c, "n": {"m": 1}}} for u, c in PAIRS]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet")
    assert pairs(tmp_path / "a.parquet", caption_column="meta.alt") == PAIRS
    named = source(caption_column="meta.alt")
    assert ignored_columns(f"{tmp_path}/a.parquet", named) == ("meta.n.m",)
    lists = [{"url": "http://h/1", "caption": ["a", "b"]}, {"url": "http://h/2", "caption": []}]
    pq.write_table(pa.Table.from_pylist(lists), tmp_path / "a.parquet")
    assert [c for _, c in pairs(tmp_path / "a.parquet")] == ["a", "b", None]


def test_parquet_strings_that_are_not_utf_8(tmp_path):
    bad = pa.array([b"good", b"b\xffd"]).view(pa.string())
    pq.write_table(
        pa.table({"url": ["http://h/1", "http://h/2"], "text": bad}), tmp_path / "a.parquet"
    )
    assert problems(tmp_path / "a.parquet") == [None, Problem.WRONG_ENCODING]


def test_a_parquet_row_group_that_does_not_read_costs_itself(tmp_path):
    rows = {"url": [f"http://h/{n}" for n in range(300)], "text": [f"t{n}" for n in range(300)]}
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table(rows), path, row_group_size=100, compression="zstd", use_dictionary=False
    )
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    at = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    found = list(read_list(str(path), source()))
    assert [row.url for row in found] == [*rows["url"][:100], None, *rows["url"][200:]]
    assert found[100].problem is Problem.BROKEN_ROW
    assert "rows 100 to 199" in found[100].detail
    assert len(pairs(path, rows=(150, 250))) == 51
    assert len(pairs(path, rows=(200, 250))) == 50


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "yfcc100m"])
def test_slices_of_rows_make_the_whole(tmp_path, kind):
    path, options = f"{tmp_path}/a", {"format": ListFormat(kind)}
    rows = [(f"http://h/{n}", f"line\n{n}" if n % 7 == 0 else f"caption {n}") for n in range(1000)]
    if kind == "parquet":
        columns = {"url": [u for u, _ in rows], "caption": [c for _, c in rows]}
        pq.write_table(pa.table(columns), path, row_group_size=64)
    else:
        with open(path, "w", newline="") as file:
            if kind == "csv":
                csv.writer(file).writerows([("url", "caption"), *rows])
            elif kind == "jsonl":
                file.writelines(json.dumps({"url": u, "caption": c}) + "\n\n" for u, c in rows)
            else:
                file.writelines(YFCC_PHOTO.replace("Two", str(n)) + "\n" for n in range(1000))
    whole = pairs(path, **options)
    assert count_rows(path, source(**options)) == 1000
    cuts = [0, 1, 64, 500, 500, 999, 1000, 1200]
    parts = [pairs(path, rows=cut, **options) for cut in itertools.pairwise(cuts)]
    assert [pair for part in parts for pair in part] == whole
    assert [len(part) for part in parts[:3]] == (
        [2, 126, 872] if kind == "yfcc100m" else [1, 63, 436]
    )


@pytest.mark.parametrize(
    ("name", "data", "options", "words"),
    [
        ("a.csv", b"first,second\n1,2\n", {}, "columns first, second: set url_column"),
        ("a.csv", b"url,caption\n", {"url_column": "link"}, "set url_column"),
        ("a.csv", b"", {}, "is empty"),
        ("a.tsv", b"a cat\thttp://h/1\n", {}, "no header, its first row is data: set columns"),
        ("a.list", b"", {}, "suffix tells no format"),
        ("a.parquet", b"not parquet at all", {}, "cannot be read as parquet"),
        ("a.parquet", b"", {}, "cannot be read as parquet"),
        ("a.csv.gz", b"\x1f\x8bnot gzip", {}, "compression is damaged from the start"),
        ("a.zst", b"\x28\xb5\x2f\xfdnot", {"format": ListFormat.CSV}, "damaged from the start"),
        ("a.jsonl", b'[\n{"url": 1},\n', {"url_column": "x"}, "has the columns url|no object"),
        ("a.json", b"[1,\n2]", {}, "one object a line"),
        ("a.tsv", None, {}, "is not there; check the path"),
    ],
)
def test_unreadable_lists_say_what_to_do(tmp_path, name, data, options, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ListError, match=words):
        list(read_list(str(tmp_path / name), source(**options)))


def test_a_parquet_column_that_holds_no_text_is_named(tmp_path):
    rows = {"url": ["http://h/1"], "text": [3]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(ListError, match="column text holds int64, not text; set url_column or"):
        pairs(tmp_path / "a.parquet")


def test_a_storage_that_nobody_knows_or_that_needs_a_package(tmp_path):
    with pytest.raises(ListError, match="Protocol not known"):
        pairs("nowhere://h/a.csv")


class _Failing(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 500_000:
            raise ConnectionResetError("peer")
        return super().read(min(size, 100_000))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_storage_that_fails_in_the_middle_is_no_damage_of_the_list(monkeypatch, kind):
    rows = [(f"http://h/{n}", f"caption {n * 7919}") for n in range(100_000)]
    memory = fsspec.filesystem("memory")
    with memory.open("/failing", "wb") as file:
        if kind == "csv":
            text = "url,caption\n" + "".join(f"{u},{c}\n" for u, c in rows)
            file.write(gzip.compress(text.encode(), 1))
        else:
            columns = {"url": [u for u, _ in rows], "caption": [c for _, c in rows]}
            pq.write_table(pa.table(columns), file, row_group_size=10_000, compression="none")
    data = memory.cat_file("/failing")
    monkeypatch.setattr(type(memory), "open", lambda *_: _Failing(data))
    with pytest.raises(ListError, match=r"peer\)"):
        pairs("memory://failing", format=ListFormat(kind))


def test_lists_in_memory_and_over_http(tmp_path):
    data, expected, _ = written("csv")
    fsspec.filesystem("memory").pipe_file("/lists/a.csv", gzip.compress(data))
    assert pairs("memory://lists/a.csv") == expected
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(data))
    pq.write_table(pa.table({"url": ["http://h/1"], "text": ["x"]}), tmp_path / "a.parquet")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        try:
            assert pairs(f"{root}/a.csv.gz") == expected
            assert pairs(f"{root}/a.parquet") == [("http://h/1", "x")]
            with pytest.raises(ListError, match="not there; check the path"):
                pairs(f"{root}/b.csv")
        finally:
            server.shutdown()


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=400)
    | st.binary(max_size=100).map(lambda tail: "url,caption\n".encode("utf-16") + tail)
    | st.text('url,caption\t\n\r"{}[]: ahtp/\ud800é', max_size=200).map(
        lambda text: ("url,caption\n" + text).encode("utf-8", "surrogatepass")
    ),
    kind=st.sampled_from(list(ListFormat)),
    columns=st.sampled_from([(), ("caption", "url"), ("url", "x", "caption")]),
    pack=st.sampled_from(list(COMPRESSORS.values())),
    cut=st.integers(0, 12),
)
def test_arbitrary_bytes_are_rows_or_a_list_error(data, kind, columns, pack, cut):
    packed = pack(data)
    fsspec.filesystem("memory").pipe_file("/fuzz/a", packed[: len(packed) - cut])
    asked = source(format=kind, columns=columns)
    try:
        rows = list(read_list("memory://fuzz/a", asked))
    except ListError:
        return
    counted = count_rows("memory://fuzz/a", asked)
    assert counted <= len(rows) if kind in ("yfcc100m", "jsonl") else counted == len(rows)
    described = list(to_batches(rows, "s", None, 50))
    assert sum(batch.num_rows for batch in described) == len(rows)


def test_memory_does_not_grow_with_the_list(tmp_path):
    with gzip.open(tmp_path / "a.csv", "wt", compresslevel=1) as file:
        file.write("url,caption\n")
        for block in range(100):
            row = f"http://host.example/images/{block}.jpg,a picture of block number {block}\n"
            file.write(row * 10_000)
    program = """
        import resource, sys
        from pipelines.crawl.batches import Source, SourceKind
        from pipelines.crawl.sources.url_lists import read_list
        rows = read_list(sys.argv[1], Source("s", SourceKind.URL_LIST, ("x",)))
        for _ in range(10_000):
            next(rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = 10_000 + sum(1 for _ in rows)
        print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), f"{tmp_path}/a.csv"]
    count, growth_kib = map(int, subprocess.check_output(command, text=True).split())
    assert count == 1_000_000
    assert growth_kib < 8 * 1024


def test_names_of_ignored_columns_can_be_written_down(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"url": "http://h/1", "text": "a", "w\\ud800": 1}\n')
    (tmp_path / "a.csv").write_bytes(b"url,caption,gr\xf6\xdfe\nhttp://h/1,a,1\n")
    assert ignored_columns(str(tmp_path / "a.jsonl"), source()) == ("w?",)
    assert ignored_columns(str(tmp_path / "a.csv"), source()) == ("gr??e",)
    (tmp_path / "a.csv").write_bytes(b"\xf6,\xdf\n1,2\n")
    with pytest.raises(ListError, match=r"has the columns \?, \?"):
        ignored_columns(str(tmp_path / "a.csv"), source())


def test_two_columns_of_the_name_asked_for_are_named(tmp_path):
    columns = [pa.array(["http://h/1"]), pa.array(["http://h/2"]), pa.array(["a"])]
    table = pa.Table.from_arrays(columns, names=["url", "url", "caption"])
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("url,caption,caption\nhttp://h/1,a,b\n")
    for name, column in (("a.parquet", "url"), ("a.csv", "caption")):
        with pytest.raises(ListError, match=f"two columns {column}: rename one"):
            pairs(tmp_path / name)


def test_xz_that_asks_for_gigabytes_is_named(tmp_path):
    packed = bytearray(lzma.compress(b"url,caption\n", preset=0))
    end = 12 + packed[12] * 4  # xz file format, 3.1: the block's head, of which this is the CRC32
    at = packed.index(b"\x21\x01", 12, end) + 2
    packed[at] = 38
    packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
    (tmp_path / "a.csv.xz").write_bytes(packed)
    with pytest.raises(ListError, match="Memory usage limit"):
        pairs(tmp_path / "a.csv.xz")


def test_markup_of_descriptions_is_taken_out_without_a_tree(tmp_path):
    fonts = "<p>" + "".join(f"<font a{n}>" for n in range(4_000)) + "<p>x" * 4_000
    fields = YFCC_PHOTO.split("\t")
    fields[6] = quote_plus(fonts)
    fields[7] = quote_plus("1 < 2 <!-- no --><B\nx>b</B>&lt;i&gt;<br/>c %")
    (tmp_path / "a").write_text("\t".join(fields))
    start = time.monotonic()
    rows = pairs(tmp_path / "a", format=ListFormat.YFCC100M)
    assert time.monotonic() - start < 2
    assert [caption for _, caption in rows] == [" ".join("x" * 4_000), "1 < 2 b<i> c %"]


MEMORY = """
import resource, sys
from pipelines.crawl.batches import Source, SourceKind
from pipelines.crawl.found import to_batches
from pipelines.crawl.sources.url_lists import read_list
path = sys.argv[1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = read_list(path, Source("s", SourceKind.URL_LIST, (path,)))
print([b.column("problem").value_counts().to_pylist() for b in to_batches(rows, "s", None, 131072)])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["jsonl.zst", "csv.zst", "dictionary.parquet", "plain.parquet"])
def test_small_files_of_long_captions_do_not_fill_the_memory(kind, tmp_path):
    path, long, rows = str(tmp_path / f"a.{kind}"), "xy" * 450_000, 700
    urls = [f"http://h.example/{n}.png" for n in range(rows)]
    if kind.endswith("parquet"):
        table = pa.table({"url": urls, "caption": [long] * rows})
        pq.write_table(table, path, compression="zstd", use_dictionary=kind.startswith("dict"))
    else:
        packer = zstandard.ZstdCompressor().compressobj()
        with open(path, "wb") as stream:
            short = ",".join(["xy" * 45_000] * 10)
            stream.write(
                packer.compress(b"url,caption" + b",c" * 9 + b"\n" if "csv" in kind else b"")
            )
            for url in urls:
                line = (
                    f"{url},{short}\n" if "csv" in kind else f'{{"url":"{url}","text":"{long}"}}\n'
                )
                stream.write(packer.compress(line.encode()))
            stream.write(packer.flush())
    assert os.path.getsize(path) < 200_000
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rejected = {"caption_too_long": 700} if kind != "plain.parquet" else {"broken_row": 1}
    assert said[0] == str([[{"values": k, "counts": n} for k, n in rejected.items()]])
    assert int(said[1]) < 250
