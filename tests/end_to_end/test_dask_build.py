"""The job `build_dataset` on a Dask cluster that loses a worker, beside the in-process engine."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from deployment import FinishedSite, Site, make_site, processes, still_running
from engine_clusters import DaskCluster, dask_cluster

from assets.demo.plan import BATCH
from assets.lib import daemon, runs
from assets.lib.settings import REPOSITORY
from pipelines import ledger
from pipelines.demo.server import DemoServer
from pipelines.layout import Layout

pytestmark = pytest.mark.slow

DATASETS = (
    "image_text_candidates",
    "fetched_pairs",
    "curated_pairs",
    "deduped_pairs",
    "token_grids",
)
# No time of the crawl is in these: their files are alike to the byte.
WITHOUT_TIMES = DATASETS[2:]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path) as found:
        yield found


@pytest.fixture
def site(
    tmp_path: Path,
    finished_site: FinishedSite,
    cluster: DaskCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A deployment with the finished one's index, tokenizer and dVAE, and none of its pairs."""
    site = make_site(tmp_path / "dask", updates=2)
    for name in ("coco_hash_index", "bpe_tokenizer", "models/dvae", "crawl_batches"):
        shutil.copytree(finished_site.data / name, site.data / name)
    web = finished_site.directory / "demo" / "web"
    site.environment["DALLE_BEAM_RUNNER"] = "DaskRunner"
    site.environment["DALLE_BEAM_OPTIONS"] = cluster.options
    site.environment["DALLE_REFERENCE_IMAGES"] = str(web / "reference")
    for name in [n for n in os.environ if n.startswith(("DAGSTER_", "DALLE_"))]:
        monkeypatch.delenv(name)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(REPOSITORY)
    # The addresses of its pictures are part of the data.
    port = int(finished_site.environment["DALLE_DEMO_PORT"])
    with DemoServer(str(web), port, str(tmp_path / "access.log")):
        yield site
    for process in processes(site.directory):
        with contextlib.suppress(Exception):
            process.kill()


def _finished(layout: Layout, dataset: str) -> ledger.Finished:
    return ledger.require_success(layout.dataset(dataset, BATCH))


def _wait_for(path: Path, within: float) -> None:
    end = time.monotonic() + within
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.01)


def test_a_lost_worker_changes_nothing(
    site: Site, finished_site: FinishedSite, cluster: DaskCluster
) -> None:
    here, there = Layout(str(finished_site.data)), Layout(str(site.data))
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("crawl_batch", [BATCH])
        with daemon.running(instance, site.home, site.directory / "daemon.log"):
            run_id = runs.launch("build_dataset", {"dagster/partition": BATCH})
            _wait_for(Path(there.dataset("image_text_candidates", BATCH), "_SUCCESS"), within=90)
            lost = cluster.kill_a_busy_worker(within=60)
            assert not Path(there.dataset("token_grids", BATCH), "_SUCCESS").exists()
            status = runs.follow(instance, run_id, lambda _event: None)
    assert status is dg.DagsterRunStatus.SUCCESS
    left = [host for host, worker in cluster.workers.items() if worker.poll() is None]
    assert sorted([lost, *left]) == sorted(cluster.workers)
    for name in DATASETS:
        found, wanted = _finished(there, name), _finished(here, name)
        assert (found.content, found.rows) == (wanted.content, wanted.rows), name
        assert found.funnel == wanted.funnel, name
    for name in WITHOUT_TIMES:
        files = {p.name: p.read_bytes() for p in Path(there.dataset(name, BATCH)).glob("*.parquet")}
        assert files
        for file, data in files.items():
            assert data == Path(here.dataset(name, BATCH), file).read_bytes(), f"{name}/{file}"
    assert still_running(site.directory, within=10) == []
