"""Every pipeline, unchanged, on engines of separate processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import every_pipeline
import pytest
from engine_clusters import dask_cluster, portable_service
from shard_stages import KillAll, KillFirst, stage, write_input

from pipelines import ledger
from pipelines.demo.server import DemoServer
from pipelines.demo.web import build_web
from pipelines.layout import Layout
from pipelines.runners import Engine


class Reference(NamedTuple):
    sitemap: str
    images: str
    data: dict[str, str]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """A served web, and what the in-process engine makes of it."""
    root = tmp_path_factory.mktemp("engines")
    server = DemoServer(str(root / "web"), 0, str(root / "access.log"))
    web = build_web(str(root / "web"), server.url, 48)
    layout, images = Layout(str(root / "data")), str(root / "web" / "reference")
    with server:
        every_pipeline.run_all(layout, web.sitemap, images, Engine())
        yield Reference(web.sitemap, images, every_pipeline.data(layout))


def test_the_reference_holds_every_dataset(in_process: Reference) -> None:
    names = {name.partition("/")[0] for name in in_process.data}
    assert names >= {"coco_hash_index", "image_text_candidates", "fetched_pairs", "curated_pairs"}
    assert names >= {"deduped_pairs", "token_grids", "redness_scores", "embedding_overlap"}
    assert sum("fetched_pairs/batch=first/part" in name for name in in_process.data) > 2


def test_workers_on_two_addresses_give_the_same_bytes(
    in_process: Reference, tmp_path: Path
) -> None:
    layout = Layout(str(tmp_path / "data"))
    with dask_cluster(tmp_path) as cluster:
        every_pipeline.run_all(layout, in_process.sitemap, in_process.images, cluster.engine)
    assert every_pipeline.data(layout) == in_process.data


def test_the_fn_api_gives_the_same_bytes(in_process: Reference, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "data"))
    with portable_service(tmp_path) as engine:
        every_pipeline.run_all(layout, in_process.sitemap, in_process.images, engine)
    assert every_pipeline.data(layout) == in_process.data


def test_a_killed_worker_costs_nothing_and_the_last_one_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT", "1s")
    shards = write_input(str(tmp_path / "input"))
    whole, cut, last = (Layout(str(tmp_path / name)) for name in ("whole", "cut", "last"))
    stage(whole).run(shards, Engine())
    with dask_cluster(tmp_path) as cluster:
        stage(cut, KillFirst).run(shards, cluster.engine)
        assert sorted(w.poll() is None for w in cluster.workers.values()) == [False, True]
        with pytest.raises(Exception, match=r"[Ww]orker"):
            stage(last, KillAll).run(shards, cluster.engine)
    assert _files(cut) == _files(whole)
    assert ledger.read_success(stage(last).output) is None
    stage(last).run(shards, Engine())
    assert _files(last) == _files(whole)


def _files(layout: Layout) -> dict[str, bytes]:
    root = Path(layout.root)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
