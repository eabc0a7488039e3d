import gzip
import os
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.crawl.batches import ListFormat, SourceKind, write_batch
from pipelines.crawl.planning import NewFile, new_files, plan_batches, source_name
from pipelines.crawl.sources.url_lists import ListError, read_list
from pipelines.layout import Layout

ROWS = [(f"http://h/{n}.jpg", f"caption {n}") for n in range(1050)]


def csv_list(path, rows=ROWS, pack=bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "url,caption\n" + "".join(f"{url},{caption}\n" for url, caption in rows)
    path.write_bytes(pack(text.encode()))
    return str(path)


def settle(*paths):
    for path in paths:
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_list_is_cut_by_rows_into_batches_of_equal_size(tmp_path, kind):
    path = str(tmp_path / f"My list, v2.{kind}")
    if kind == "parquet":
        columns = {"url": [u for u, _ in ROWS], "caption": [c for _, c in ROWS]}
        pq.write_table(pa.table(columns), path, row_group_size=64)
    else:
        csv_list(tmp_path / f"My list, v2.{kind}", pack=gzip.compress if "gz" in kind else bytes)
    batches = plan_batches(path, "mine", 100, snapshot="2")
    assert len(batches) == 10
    stem, digits, number = batches[-1].name.rsplit("-", 2)
    assert (stem, len(digits), number) == ("My-list-v2", 8, "0009")
    read = [
        (row.url, row.caption)
        for batch in batches
        for source in batch.sources
        for row in read_list(source.paths[0], source)
    ]
    assert read == ROWS
    assert {(s.name, s.snapshot) for batch in batches for s in batch.sources} == {("mine", "2")}
    for batch in batches:
        write_batch(batch, Layout(str(tmp_path / "root")))
    assert plan_batches(path, "mine", 100, snapshot="2") == batches


def test_a_short_list_is_one_batch_of_the_whole_and_so_is_an_empty_one(tmp_path):
    for rows in (ROWS[:120], []):
        [batch] = plan_batches(csv_list(tmp_path / "a.csv", rows), "s", 100)
        assert batch.sources[0].rows is None


def test_rows_of_yfcc_count_twice(tmp_path):
    fields = ["1", *["x"] * 12, "http://f/p", "http://f/1.jpg", *["x"] * 7, "0"]
    (tmp_path / "yfcc100m_dataset").write_text(("\t".join(fields) + "\n") * 100)
    batches = plan_batches(f"{tmp_path}/yfcc100m_dataset", "yfcc", 100)
    assert [batch.sources[0].rows for batch in batches] == [(0, 50), (50, 100)]
    assert batches[0].sources[0].format is ListFormat.YFCC100M


def test_archives_and_directories_of_pages_are_one_batch_each(tmp_path):
    for name in ("CC-MAIN-20240220211055-00000.warc.gz", "CC-MAIN-20240220211055-00001.warc.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"WARC/1.0\r\n"))
    batches = plan_batches(f"{tmp_path}/*.warc.gz", "cc")
    assert [batch.sources[0].kind for batch in batches] == [SourceKind.WEB_ARCHIVE] * 2
    assert [len(batch.sources[0].paths) for batch in batches] == [1, 1]
    assert batches[0].name.startswith("CC-MAIN-20240220211055-00000-")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.html").write_text("<html></html>")
    [pages] = plan_batches(f"{tmp_path}/site", "s", base_url="http://h/")
    assert pages.sources[0].kind is SourceKind.HTML_FILES
    assert plan_batches(f"{tmp_path}/site", "s", base_url="http://h/") == [pages]


def test_what_no_batch_can_be_planned_of(tmp_path):
    with pytest.raises(ValueError, match="web address"):
        plan_batches("http://h/", "s")
    with pytest.raises(ListError, match="not there"):
        plan_batches(f"{tmp_path}/a.csv", "s")


def test_new_files_of_an_inbox(tmp_path):
    inbox = tmp_path / "inbox"
    wanted = [
        csv_list(inbox / "cc3m-00000-of-00002.csv"),
        csv_list(inbox / "cc3m-00001-of-00002.csv"),
        csv_list(inbox / "my source" / "1.csv"),
        csv_list(inbox / "laion" / "part-0.csv"),
    ]
    ignored = [
        csv_list(inbox / name)
        for name in (
            ".hidden.csv", "_SUCCESS", "a.csv.tmp", "b.csv.part", "c.csv.crdownload", "_work/a.csv",
            ".git/a.csv", "laion/.a.csv", "laion/deeper/a.csv", "laion/b.part",
        )
    ]  # fmt: skip
    settle(*wanted, *ignored)
    young = csv_list(inbox / "still-written.csv")
    found = new_files(str(inbox), [])
    assert found == [
        NewFile(wanted[0], "cc3m"),
        NewFile(wanted[1], "cc3m"),
        NewFile(wanted[3], "laion"),
        NewFile(wanted[2], "my-source"),
    ]
    assert NewFile(young, "still-written") in new_files(str(inbox), [], settled_s=0)
    planned = [b.name for file in found[:2] for b in plan_batches(file.path, file.source, 100)]
    assert len(planned) == 20
    assert new_files(str(inbox), [*planned, "by-hand"]) == found[2:]
    # A file of the same name with other content is a new one.
    csv_list(inbox / "cc3m-00000-of-00002.csv", ROWS[:7])
    settle(wanted[0])
    assert new_files(str(inbox), planned) == [found[0], *found[2:]]
    assert new_files(f"{inbox}/nothing", []) == []


def test_an_inbox_in_memory():
    memory = fsspec.filesystem("memory")
    text = "url,caption\n" + "".join(f"{url},{caption}\n" for url, caption in ROWS)
    memory.pipe_file("/inbox/coyo/a.csv.gz", gzip.compress(text.encode()))
    memory.pipe_file("/inbox/b_7.csv", text.encode())
    assert new_files("memory://inbox", []) == []
    found = new_files("memory://inbox", [], settled_s=0)
    assert found == [
        NewFile("memory:///inbox/b_7.csv", "b"),
        NewFile("memory:///inbox/coyo/a.csv.gz", "coyo"),
    ]
    batches = plan_batches(found[1].path, found[1].source, 500)
    assert [batch.sources[0].rows for batch in batches] == [(0, 525), (525, 1050)]
    names = [batch.name for batch in batches]
    assert new_files("memory://inbox/", names, settled_s=0) == found[:1]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/in/cc3m-00012-of-00100.tsv.gz", "cc3m"),
        ("s3://b/laion400m_part_00003.snappy.parquet", "laion400m"),
        ("/in/part-00000-0f3c-c000.snappy.parquet", "list"),
        ("/in/yfcc100m_dataset", "yfcc100m_dataset"),
        ("/in/CC-MAIN-20240220211055-20240221001055-00000.warc.gz", "CC-MAIN"),
        ("/in/spare part.csv", "spare-part"),
        ("/in/spare-part.csv", "spare-part"),
        ("/in/Ünï cødé.csv", "n-c-d"),
    ],
)
def test_names_of_sources_leave_counters_out(path, name):
    assert source_name(path) == name
