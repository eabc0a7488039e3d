import csv
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from list_files import COMPRESSORS, PAIRS, YFCC_PAIRS, YFCC_PHOTO, pairs, problems, source, written

from pipelines.crawl.batches import ListFormat
from pipelines.crawl.found import Problem
from pipelines.crawl.sources.url_lists import ListError, count_rows, ignored_columns, read_list


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
