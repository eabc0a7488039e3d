"""`dagster job backfill` over two batches, from their pages to a published version."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from deployment import REPOSITORY, FinishedSite, Site, make_site, processes, still_running

from assets.batches import register
from assets.lib import daemon, runs
from pipelines import ledger
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind
from pipelines.demo.server import DemoServer
from pipelines.layout import Layout
from pipelines.publish.manifest import read_manifest, verify

pytestmark = pytest.mark.slow

BATCHES = ("first", "second")


@pytest.fixture
def site(tmp_path: Path, finished_site: FinishedSite) -> Iterator[Site]:
    """A deployment with the finished one's index, tokenizer and dVAE; its galleries as batches."""
    site = make_site(tmp_path / "backfill", updates=2)
    for name in ("coco_hash_index", "bpe_tokenizer", "models/dvae"):
        shutil.copytree(finished_site.data / name, site.data / name)
    web = finished_site.directory / "demo" / "web"
    site.environment["DALLE_REFERENCE_IMAGES"] = str(web / "reference")
    galleries = sorted(path.name for path in (web / "www" / "gallery").iterdir())
    # Pages name some of their pictures by address and port.
    port = int(finished_site.environment["DALLE_DEMO_PORT"])
    with DemoServer(str(web), port) as server:
        with site.instance() as instance:
            for number, batch in enumerate(BATCHES):
                pages = tuple(f"{server.url}/gallery/{name}" for name in galleries[number::2])
                source = Source("gallery", SourceKind.WEB_PAGES, pages)
                register(CrawlBatch(batch, (source,)), Layout(str(site.data)), instance)
        yield site
    for process in processes(site.directory):
        process.kill()


def _ended(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    return runs.follow(instance, run_id, lambda _event: None)


def test_a_backfill_builds_every_batch(site: Site) -> None:
    command = ["dagster", "job", "backfill", "-w", "workspace.yaml", "-j", "build_dataset"]
    command += ["--partitions", ",".join(BATCHES), "--noprompt"]
    with (
        site.instance() as instance,
        daemon.running(instance, site.home, site.directory / "daemon.log"),
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, check=True)
        launched = {run.tags["dagster/partition"]: run for run in instance.get_runs()}
        assert sorted(launched) == sorted(BATCHES)
        assert {run.job_name for run in launched.values()} == {"build_dataset"}
        assert len({run.tags["dagster/backfill"] for run in launched.values()}) == 1
        for run in launched.values():
            assert _ended(instance, run.run_id) is dg.DagsterRunStatus.SUCCESS
        key = dg.AssetKey("token_grids")
        assert instance.get_materialized_partitions(key) == set(BATCHES)
        published = runs.launch("publish_dataset", {})
        assert _ended(instance, published) is dg.DagsterRunStatus.SUCCESS
    layout = Layout(str(site.data))
    rows = [ledger.require_success(layout.dataset("token_grids", b)).rows for b in BATCHES]
    assert min(rows) > 0
    manifest = read_manifest(layout.token_dataset)
    verify(manifest)
    assert tuple(manifest.batches) == BATCHES
    assert manifest.rows == sum(rows)
    assert still_running(site.directory, within=10) == []
