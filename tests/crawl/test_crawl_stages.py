import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from pipelines import parquet, schemas, storage
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.crawl.candidates import extract_candidates
from pipelines.crawl.config import CandidatesConfig, FetchConfig, HttpConfig
from pipelines.crawl.fetch import fetch_pairs
from pipelines.crawl.sources.pages import SitemapError
from pipelines.demo.server import DemoServer
from pipelines.demo.web import MAX_BYTES, build_web
from pipelines.layout import Layout
from pipelines.runners import Engine

HTTP = HttpConfig(
    contact="mailto:tests@localhost",
    max_bytes=MAX_BYTES,
    domain_delay_s=0,
    allow_networks=("127.0.0.0/8",),
)
CANDIDATES = CandidatesConfig(HTTP, rows_per_part=10, pages_per_shard=3)


class Served:
    """A small web, its server's log, and the batch that is crawled from it."""

    def __init__(self, root: Path):
        self.log = root / "access.log"
        self.server = DemoServer(str(root / "web"), 0, str(self.log))
        self.web = build_web(str(root / "web"), self.server.url, 64)
        self.truth = json.loads(Path(self.web.truth).read_text())
        self.layout = self.new_layout(root / "data")

    def new_layout(self, root: Path) -> Layout:
        layout = Layout(str(root))
        source = Source("web", SourceKind.SITEMAP, (self.web.sitemap,))
        write_batch(CrawlBatch("b", (source,)), layout)
        return layout

    def asked(self, since: int = 0) -> list[str]:
        return [json.loads(line)["path"] for line in self.log.read_text().splitlines()[since:]]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"))
    with served.server:
        served.candidates = extract_candidates("b", served.layout, CANDIDATES, Engine())
        served.pages_end = len(served.asked())
        served.fetched = fetch_pairs("b", served.layout, FetchConfig(HTTP), Engine())
        served.images_end = len(served.asked())
        yield served


def rows(directory: str, columns: list[str] | None = None) -> pa.Table:
    files = storage.list_files(directory, ".parquet")
    return pa.Table.from_batches(
        [batch for file in files for batch in parquet.read_batches(file, columns=columns)]
    )


def test_every_picture_with_a_text_is_a_candidate_once(served):
    counts = served.web.counts
    shown = sum(counts.values()) - counts["pages"] - counts["references"]
    # The two closed pages are not read; half of their pictures is shown elsewhere.
    shown += 2 - counts["private"] - counts["reserved"] + 2
    assert served.candidates.funnel.rows_in == shown
    assert served.candidates.funnel.dropped == {
        "page_opted_out": 2,
        "repeat": counts["same_pair"],
    }
    table = rows(served.layout.dataset("image_text_candidates", "b"))
    assert schemas.violations(schemas.IMAGE_TEXT_CANDIDATES, table.schema) == []
    assert len(set(table.column("uid").to_pylist())) == table.num_rows == served.candidates.rows
    rejected = rows(served.layout.rejects("crawl", "b")).to_pylist()
    closed = {row["url"]: row["detail"] for row in rejected if row["reason"] == "page_opted_out"}
    assert "robots_txt" in closed[f"{served.web.base_url}/private/index.html"]
    assert "noai" in closed[f"{served.web.base_url}/reserved/index.html"]


def test_pairs_of_one_address_are_in_one_part(served):
    seen: dict[str, str] = {}
    files = storage.list_files(served.layout.dataset("image_text_candidates", "b"), ".parquet")
    assert len(files) > 5
    for file in files:
        for batch in parquet.read_batches(file, columns=["url"]):
            for url in batch.column("url").to_pylist():
                assert seen.setdefault(url, file) == file


def test_every_pair_has_its_outcome(served):
    truth, web = served.truth, served.web
    table = rows(served.layout.dataset("fetched_pairs", "b"))
    assert schemas.violations(schemas.FETCHED_PAIRS, table.schema) == []
    outcomes = {row["url"]: row["outcome"] for row in table.to_pylist()}
    by_outcome = Counter(outcomes.values())
    assert {url for url, outcome in outcomes.items() if outcome == "not_found"} == {
        *truth["broken"]
    }
    assert {outcomes[url] for url in truth["not_an_image"]} == {"not_an_image"}
    assert {outcomes[url] for url in truth["oversized"]} == {"too_large"}
    assert {outcomes[url] for url in truth["reference_copies"]} == {"ok"}
    assert by_outcome["opted_out"] == 2
    for row in table.to_pylist():
        assert (row["image"] is not None) == (row["outcome"] == "ok")
        if row["image"] is not None:
            path = urlsplit(row["url"]).path
            assert row["image"] == Path(f"{web.directory}/www{path}").read_bytes()
            assert row["bytes"] == len(row["image"])
    signals = {row["opt_out_signal"]: row["opt_out_text"] for row in table.to_pylist()}
    assert set(signals) == {None, "robots_txt", "x_robots_tag"}
    assert signals["x_robots_tag"] == "noindex, noimageai"
    assert table.num_rows == served.candidates.rows == served.fetched.funnel.rows_in
    failed = rows(served.layout.rejects("crawl_fetch", "b"))
    assert failed.num_rows == sum(served.fetched.funnel.dropped.values())
    assert not any(failed.column("retryable").to_pylist())


def test_each_address_is_asked_for_once_and_no_closed_one(served):
    asked = Counter(served.asked()[served.pages_end : served.images_end])
    rules = [asked.pop(path) for path in ("/robots.txt", "/.well-known/tdmrep.json")]
    assert rules == [1, 1]
    assert set(asked.values()) == {1}
    pictures = served.fetched.details["urls"]
    assert len(asked) == pictures - sum("/private/" in url for url in _urls(served))
    assert not any(path.startswith("/private/") for path in served.asked())
    # Of the forbidden picture that robots.txt does not cover, only the head was used.
    assert any(path.startswith("/reserved/media/") for path in asked)


def _urls(served) -> set[str]:
    table = rows(served.layout.dataset("fetched_pairs", "b"), ["url"])
    return set(table.column("url").to_pylist())


def test_a_second_run_asks_for_nothing(served):
    before = len(served.asked())
    assert extract_candidates("b", served.layout, CANDIDATES, Engine()) == served.candidates
    assert fetch_pairs("b", served.layout, FetchConfig(HTTP), Engine()) == served.fetched
    assert len(served.asked()) == before
    assert not storage.exists(f"{served.layout.dataset('image_text_candidates', 'b')}/_found")
    assert not storage.exists(f"{served.layout.dataset('fetched_pairs', 'b')}/_work")


def _crawl(layout: Layout) -> None:
    extract_candidates("b", layout, CANDIDATES, Engine())
    fetch_pairs("b", layout, FetchConfig(replace(HTTP, domain_delay_s=0.02)), Engine())


def test_a_killed_crawl_goes_on_and_ends_the_same(served, tmp_path):
    layout = served.new_layout(tmp_path)
    before = len(served.asked())
    process = multiprocessing.get_context("spawn").Process(target=_crawl, args=(layout,))
    process.start()
    receipts = f"{layout.dataset('fetched_pairs', 'b')}/_receipts"
    deadline = time.monotonic() + 60
    while len(storage.list_files(receipts, ".json")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done = len(storage.list_files(receipts, ".json"))
    assert 3 <= done < len(storage.list_files(layout.dataset("image_text_candidates", "b")))
    assert not storage.exists(f"{layout.dataset('fetched_pairs', 'b')}/_SUCCESS")
    _crawl(layout)
    again = [path for path, n in Counter(served.asked(before)).items() if n > 1]
    # Asked for twice: what was in flight, one request for each connection to the domain.
    assert len([path for path in again if "/media/" in path]) <= HTTP.domain_connections
    columns = ["uid", "outcome", "image_sha256", "detail", "opt_out_signal"]
    ended, undisturbed = (
        rows(at.dataset("fetched_pairs", "b"), columns) for at in (layout, served.layout)
    )
    assert ended == undisturbed
    assert not storage.exists(f"{layout.dataset('fetched_pairs', 'b')}/_work")


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_data(served, tmp_path):
    from distributed import LocalCluster

    layout = served.new_layout(tmp_path)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        engine = Engine("DaskRunner", (f"--dask_client_address={cluster.scheduler_address}",))
        found = extract_candidates("b", layout, CANDIDATES, engine)
        fetched = fetch_pairs("b", layout, FetchConfig(HTTP), engine)
    assert found.content == served.candidates.content
    assert (fetched.content, fetched.funnel) == (served.fetched.content, served.fetched.funnel)


def test_lists_and_saved_pages_give_the_same_pairs_as_the_web(tmp_path):
    (tmp_path / "list.tsv").write_text("caption\turl\nx\thttp://h.example/d/a.png\ny\tmailto:me\n")
    saved = tmp_path / "saved" / "d"
    saved.mkdir(parents=True)
    (saved / "p.html").write_text('<img src="a.png" alt="x"><img src="/b c.png" alt="z">')
    layout = Layout(str(tmp_path / "data"))
    sources = (
        Source("list", SourceKind.URL_LIST, (str(tmp_path / "list.tsv"),), snapshot="v1"),
        Source("html", SourceKind.HTML_FILES, (str(tmp_path / "saved"),), base_url="http://h.example"),
    )  # fmt: skip
    write_batch(CrawlBatch("b", sources), layout)
    finished = extract_candidates("b", layout, CandidatesConfig(HTTP), Engine())
    assert finished.funnel.dropped == {"invalid_url": 1, "repeat": 1}
    table = rows(layout.dataset("image_text_candidates", "b")).to_pylist()
    found = [(row["url"], row["page_url"], row["source"], row["caption_raw"]) for row in table]
    assert sorted(found) == [
        ("http://h.example/b%20c.png", "http://h.example/d/p.html", "html", "z"),
        ("http://h.example/d/a.png", "http://h.example/d/p.html", "html", "x"),
    ]
    other = extract_candidates("b", layout, CandidatesConfig(HTTP, rows_per_part=1), Engine())
    assert (other.rows, other.funnel) == (finished.rows, finished.funnel)


def test_what_is_missing_is_named(tmp_path, served):
    layout = Layout(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not finished"):
        fetch_pairs("b", layout, FetchConfig(HTTP), Engine())
    gone = Source("list", SourceKind.URL_LIST, (f"{tmp_path}/no.csv",))
    write_batch(CrawlBatch("b", (gone,)), layout)
    with pytest.raises(FileNotFoundError, match=r"'list' of batch 'b': .*no\.csv is not there"):
        extract_candidates("b", layout, CANDIDATES, Engine())
    page = Source("web", SourceKind.SITEMAP, (f"{served.web.base_url}/robots.txt",))
    write_batch(CrawlBatch("b", (page,)), layout)
    with pytest.raises(SitemapError, match=r"could not be fetched \(not_a_page"):
        extract_candidates("b", layout, CANDIDATES, Engine())
    assert not storage.exists(layout.dataset("image_text_candidates", "b") + "/_SUCCESS")
