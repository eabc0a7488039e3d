import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from list_files import PAIRS, pairs, problems, source

from pipelines.crawl.found import Problem
from pipelines.crawl.sources.url_lists import ListError, ignored_columns, read_list


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


def test_a_parquet_column_that_holds_no_text_is_named(tmp_path):
    rows = {"url": ["http://h/1"], "text": [3]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(ListError, match="column text holds int64, not text; set url_column or"):
        pairs(tmp_path / "a.parquet")
