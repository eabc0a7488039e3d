import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.crawl.batches import ListFormat, Source, SourceKind
from pipelines.crawl.found import Problem, to_batches
from pipelines.crawl.url_lists import ListError, read_list

PAIRS = [("http://h/1.png", 'one, "two"'), ("http://h/2.png", "drei\tÄ"), ("http://h/3.png", "四")]


def source(**options) -> Source:
    return Source("s", SourceKind.URL_LIST, ("unused",), **options)


def pairs(path, **options):
    return [(row.url, row.caption) for row in read_list(str(path), source(**options))]


def test_csv_plain_and_compressed(tmp_path):
    text = 'url,caption\nhttp://h/1.png,"one, ""two"""\nhttp://h/2.png,drei\tÄ\nhttp://h/3.png,四\n'
    (tmp_path / "a.csv").write_text("\ufeff" + text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(text.encode()))
    for path in tmp_path.iterdir():
        assert pairs(path) == PAIRS, path


def test_jsonl_and_parquet_with_other_column_names(tmp_path):
    rows = [{"URL": url, "TEXT": text, "more": 1} for url, text in PAIRS]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert pairs(tmp_path / "a.jsonl") == pairs(tmp_path / "a.parquet") == PAIRS
    assert pairs(f"file://{tmp_path}/a.parquet", caption_column="URL")[0][1] == "http://h/1.png"


def test_conceptual_captions_tsv_has_no_header_and_no_quoting(tmp_path):
    (tmp_path / "a.tsv").write_text('a "quoted start\thttp://h/1.png\nb\thttp://h/2.png\n')
    assert pairs(tmp_path / "a.tsv", columns=("caption", "url")) == [
        ("http://h/1.png", 'a "quoted start'),
        ("http://h/2.png", "b"),
    ]


def test_broken_rows_cost_themselves_only(tmp_path):
    (tmp_path / "a.tsv").write_bytes(
        b"url\tcaption\nhttp://h/1\tgood\nhttp://h/2\nhttp://h/3\tb\xff\xfed\n"
        b"\tno url\nhttp://h/5\t \nfile:///etc/passwd\tx\nhttp://h/7\tgood\n"
    )
    rows = read_list(str(tmp_path / "a.tsv"), source())
    table = pa.Table.from_batches(to_batches(rows, "s", None, 3))
    assert table.column("problem").to_pylist() == [
        None,
        Problem.BROKEN_ROW,
        Problem.WRONG_ENCODING,
        Problem.NO_URL,
        Problem.NO_CAPTION,
        Problem.INVALID_URL,
        None,
    ]
    assert len(set(table.column("uid").to_pylist())) == 7


def test_broken_json_lines_cost_themselves_only(tmp_path):
    good = json.dumps({"url": "http://h/1", "caption": "good"})
    (tmp_path / "a.jsonl").write_text(
        f'{good}\n{{"url":\n\n[1]\n{{"url": 3, "caption": "x"}}\n{good}'
    )
    rows = list(read_list(str(tmp_path / "a.jsonl"), source()))
    assert [row.problem for row in rows] == [None, *[Problem.BROKEN_ROW] * 3, None]


@pytest.mark.parametrize(
    ("name", "data", "options", "words"),
    [
        ("a.csv", b"first,second\n1,2\n", {}, "columns first, second: set url_column"),
        ("a.csv", b"url,caption\n", {"url_column": "link"}, "set url_column"),
        ("a.list", b"", {}, "suffix tells no format"),
        ("a.parquet", b"not parquet at all", {}, "cannot be read as parquet"),
        ("a.csv.gz", b"not gzip", {}, "cannot be read as csv"),
        ("a.tsv", None, {"format": ListFormat.TSV}, "cannot be read as tsv"),
    ],
)
def test_unreadable_lists_say_what_to_do(tmp_path, name, data, options, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ListError, match=words):
        list(read_list(str(tmp_path / name), source(**options)))
