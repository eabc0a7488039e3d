import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_files import COMPRESSORS, pairs, problems, source

from pipelines.crawl.batches import ListFormat
from pipelines.crawl.found import Problem, to_batches
from pipelines.crawl.sources.url_lists import ListError, count_rows, read_list


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
