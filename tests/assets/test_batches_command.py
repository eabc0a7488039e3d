"""`python -m assets.batches`: what it recognises, registers, lists, and refuses."""

import gzip
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import batches
from assets.lib import runs
from assets.lib.home import UserError
from assets.lib.settings import REPOSITORY
from pipelines import ledger
from pipelines.crawl.batches import CrawlBatch, ListFormat, Source, SourceKind, read_batch
from pipelines.layout import Layout
from pipelines.ledger import Finished, Funnel

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: an instance's first use makes its databases, which takes seconds."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    return home


@pytest.fixture
def layout(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("DALLE_DATA_ROOT", str(tmp_path / "data"))
    yield Layout(str(tmp_path / "data"))
    with dg.DagsterInstance.get() as instance:
        for name in instance.get_dynamic_partitions("crawl_batch"):
            instance.delete_dynamic_partition("crawl_batch", name)


def _registered() -> list[str]:
    with dg.DagsterInstance.get() as instance:
        return sorted(instance.get_dynamic_partitions("crawl_batch"))


def _source(layout: Layout, name: str) -> Source:
    (source,) = read_batch(name, layout).sources
    return source


def test_a_short_list_is_one_batch(layout: Layout, tmp_path: Path, capsys: Output) -> None:
    urls = tmp_path / "urls.csv"
    urls.write_text("url,caption,likes\nhttps://example.org/a.jpg,a red bicycle by a wall,3\n")
    assert batches.main(["add", "mine", str(urls), "https://example.org/sitemap.xml"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "urls.csv: comma-separated, 1 row, nothing is taken from the columns likes",
        "sitemap.xml: a sitemap",
        "1 batch registered; next: python -m assets.batches launch mine",
    ]
    sources = read_batch("mine", layout).sources
    kinds = [(source.name, source.kind) for source in sources]
    assert kinds == [("urls", SourceKind.URL_LIST), ("example.org", SourceKind.SITEMAP)]
    assert _registered() == ["mine"]


def test_a_long_list_is_cut(layout: Layout, tmp_path: Path, capsys: Output) -> None:
    rows = "".join(f"a caption of {n}\thttps://example.org/{n}.jpg\n" for n in range(1000))
    file = tmp_path / "cc3m.list"
    file.write_bytes(gzip.compress(rows.encode()))
    arguments = ["add", "cc3m", str(file), "--pairs-per-batch", "300", "--snapshot", "v1"]
    assert batches.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cc3m.list: tab-separated, no header, caption then url, 1,000 rows",
        "3 batches registered; next: python -m assets.batches launch 'cc3m-*'",
    ]
    assert _registered() == ["cc3m-0000", "cc3m-0001", "cc3m-0002"]
    sources = [_source(layout, name) for name in _registered()]
    assert [source.rows for source in sources] == [(0, 333), (333, 666), (666, 1000)]
    assert {(s.snapshot, s.format, s.columns) for s in sources} == {
        ("v1", ListFormat.TSV, ("caption", "url"))
    }


def test_a_relative_path_is_read_from_any_working_directory(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, pages = tmp_path / "lists", tmp_path / "pages"
    for folder in (lists, pages):
        folder.mkdir()
    file = lists / "a.csv"
    file.write_text("url,caption\nhttps://example.org/a.jpg,a red bicycle\n")
    (pages / "a.html").write_text("<html><img src=a.png alt=cat></html>")
    monkeypatch.chdir(tmp_path)
    words = {"file": "lists/a.csv", "folder": "lists", "glob": "lists/*.csv"}
    for name, word in words.items():
        assert batches.main(["add", name, word]) == 0
        assert _source(layout, name).paths == (str(file),)
    assert batches.main(["add", "saved", "https://example.org/=pages"]) == 0
    assert _source(layout, "saved").paths == (str(pages),)
    assert batches.main(["add", "web", "https://example.org/lists/a.csv"]) == 0
    assert _source(layout, "web").paths == ("https://example.org/lists/a.csv",)


def test_columns_and_names_that_are_said(layout: Layout, tmp_path: Path) -> None:
    table = pa.table({"link": ["https://example.org/a.jpg"], "words": ["a cat"], "n": [1]})
    for name in ("a", "b"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    options = ["--url-column", "link", "--caption-column", "words", "--name-source", "ours"]
    assert batches.main(["add", "said", str(tmp_path / "*.parquet"), *options]) == 0
    source = _source(layout, "said")
    assert (source.name, source.url_column, source.caption_column) == ("ours", "link", "words")
    assert [Path(path).name for path in source.paths] == ["a.parquet", "b.parquet"]


def test_a_list_without_a_header(layout: Layout, tmp_path: Path) -> None:
    file = tmp_path / "odd.txt"
    file.write_text("1;a cat;https://example.org/a.jpg\n2;a dog;https://example.org/b.jpg\n")
    options = ["--format", "csv", "--columns", "id,caption,url"]
    assert batches.main(["add", "odd", str(file), *options]) == 0
    source = _source(layout, "odd")
    assert (source.format, source.columns) == (ListFormat.CSV, ("id", "caption", "url"))


def test_saved_pages(layout: Layout, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.html").write_text("<html><img src=a.png alt=cat></html>")
    assert batches.main(["add", "one", f"https://example.org/={pages}"]) == 0
    assert batches.main(["add", "two", str(pages), "--base-url", "https://example.org/"]) == 0
    for name in ("one", "two"):
        source = _source(layout, name)
        assert (source.kind, source.base_url) == (SourceKind.HTML_FILES, "https://example.org/")
        assert source.name == "pages"


def test_archives_are_a_batch_each(layout: Layout, tmp_path: Path) -> None:
    record = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
    for number in range(2):
        (tmp_path / f"CC-{number}.warc.gz").write_bytes(gzip.compress(record))
    assert batches.main(["add", "cc", str(tmp_path / "*.warc.gz")]) == 0
    assert _registered() == ["cc-0000", "cc-0001"]
    assert _source(layout, "cc-0001").kind is SourceKind.WEB_ARCHIVE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine", "missing.csv"], "cannot read 'missing.csv'"),
        (["no/slash", "https://example.org/a.html"], "batch name"),
        (["mine", "{empty}"], "is empty"),
        (["mine", "{strange}"], "its content tells no format; set format"),
        (["mine", "{pages}"], "BASE_URL=PATH"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    layout: Layout, tmp_path: Path, capsys: Output, words: list[str], said: str
) -> None:
    files = {"empty": b"", "strange": b"alpha,beta\n1,2\n", "pages": b"<html><p>x</p></html>"}
    paths = {name: str(tmp_path / f"{name}.csv") for name in files}
    for name, data in files.items():
        Path(paths[name]).write_bytes(data)
    assert batches.main(["add", *(word.format(**paths) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert _registered() == []
    assert not Path(layout.root).exists()


def test_a_wrong_option_is_bad_usage(layout: Layout, capsys: Output) -> None:
    for words in (["--pairs-per-batch", "0"], ["--format", "xlsx"]):
        with pytest.raises(SystemExit) as error:
            batches.main(["add", "mine", "x.csv", *words])
        assert error.value.code == 2
    assert "above 0" in capsys.readouterr().err


def test_a_crawled_batch_keeps_its_sources(layout: Layout, capsys: Output) -> None:
    assert batches.main(["add", "mine", "https://example.org/a.html"]) == 0
    assert "replace" not in capsys.readouterr().out
    assert batches.main(["add", "mine", "https://example.org/b.html"]) == 0
    assert "batch mine had other sources, which these replace" in capsys.readouterr().out
    finished = Finished("image_text_candidates", "f", "c", 1, 1, Funnel(1, 1))
    ledger.write_success(layout.dataset("image_text_candidates", "mine"), finished)
    assert batches.main(["add", "mine", "https://example.org/b.html"]) == 0
    assert batches.main(["add", "mine", "https://example.org/c.html"]) == 2
    assert "choose another name" in capsys.readouterr().err
    assert _source(layout, "mine").paths == ("https://example.org/b.html",)


def test_the_list_tells_sources_and_finished_stages(layout: Layout, capsys: Output) -> None:
    assert batches.main(["list"]) == 0
    assert capsys.readouterr().out == "no batch is registered\n"
    page = Source("pages", SourceKind.WEB_PAGES, ("https://example.org/",))
    with dg.DagsterInstance.get() as instance:
        for name in ("b", "a"):
            batch = CrawlBatch(name, (page,), "2026-10-01T12:30:00.000000Z")
            batches.register(batch, layout, instance)
        instance.add_dynamic_partitions("crawl_batch", ["elsewhere"])
    for dataset in ("image_text_candidates", "fetched_pairs"):
        finished = Finished(dataset, "f", "c", 1, 1, Funnel(1, 1))
        ledger.write_success(layout.dataset(dataset, "a"), finished)
    assert batches.main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a  2026-10-01 12:30  [candidates fetched]  pages",
        "b  2026-10-01 12:30  [nothing finished]  pages",
        f"elsewhere  no sources below {layout.root}",
    ]


def test_a_misspelt_batch_is_not_launched(layout: Layout, capsys: Output) -> None:
    assert batches.main(["add", "mine", "https://example.org/a.html"]) == 0
    for name in ("misspelt", "mime-*"):
        assert batches.main(["launch", name]) == 2
        assert "(registered: mine)" in capsys.readouterr().err


def test_one_command_queues_a_run_for_each_batch_of_a_pattern(
    layout: Layout, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"web-{number:04}" for number in range(3)]
    for name in (*names, "other"):
        assert batches.main(["add", name, "http://127.0.0.1:9/a.html"]) == 0
    commands = []
    run = subprocess.run

    def counted(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    capsys.readouterr()
    assert batches.main(["launch", "web-*"]) == 0
    assert len(commands) == 1
    with dg.DagsterInstance.get() as instance:
        queued = {run.tags["dagster/partition"]: run for run in instance.get_runs()}
    assert sorted(queued) == names
    assert {(run.job_name, run.status) for run in queued.values()} == {
        ("collect_pairs", dg.DagsterRunStatus.QUEUED)
    }
    assert capsys.readouterr().out.splitlines() == [
        f"collect_pairs of batch {name} is queued as run {queued[name].run_id}" for name in names
    ]


def test_what_a_run_would_refuse_is_not_queued(
    layout: Layout, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DALLE_CRAWL_CONTACT", raising=False)
    assert batches.main(["add", "mine", "https://example.org/a.html"]) == 0
    for words, said in (
        (["mine"], "set DALLE_CRAWL_CONTACT"),
        (["mine", "build_dataset"], "set DALLE_CRAWL_CONTACT"),
        (["mine", "wrong_job"], "choose one of collect_pairs, encode_pairs, build_dataset"),
        (["mine", "train_dvae"], "there is no job 'train_dvae' of batches"),
    ):
        assert batches.main(["launch", *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.usefixtures("layout")
def test_a_command_of_dagster_that_fails_tells_its_sentence_only() -> None:
    with pytest.raises(UserError) as error:
        runs.launch("wrong_job", {})
    assert str(error.value).startswith('Job "wrong_job" not found')
    assert "\n" not in str(error.value)
