from pathlib import Path

import dagster as dg
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, row

from assets.dedupe import CHECKS, coco_hash_index, deduped_pairs
from assets.lib.partitions import crawl_batches
from assets.lib.settings import Settings
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.caught import caught_copies
from pipelines.runners import Engine

NAMES = ("snail", "guitar", "dragon")
CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "references"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(artwork()[name])
    return Settings(
        data_root=str(tmp_path / "data"),
        recipe="demo",
        reference_images=str(folder),
        processes=1,
    )


def materialize(
    settings: Settings, asset: dg.AssetsDefinition, batch: str | None = None
) -> dg.ExecuteInProcessResult:
    instance = dg.DagsterInstance.ephemeral()
    if batch is not None:
        instance.add_dynamic_partitions(crawl_batches.name, [batch])
    return dg.materialize(
        [
            asset,
            *(check for check in CHECKS if asset.key in {k.asset_key for k in check.check_keys}),
        ],
        resources={"settings": settings},
        instance=instance,
        partition_key=batch,
    )


def test_the_pages_show_recall_false_flags_and_what_was_caught(settings: Settings) -> None:
    done = materialize(settings, coco_hash_index)
    (event,) = done.get_asset_materialization_events()
    metadata = event.materialization.metadata
    recalled = {r.data["attack"]: r.data for r in metadata["recall"].records}
    assert (recalled["mirror"]["caught"], recalled["mirror"]["by 64 bits alone"]) == (3, 0)
    assert metadata["false flags"].records[0].data["tried"] == 3
    assert "data:image/" in metadata["recall by attack"].value
    assert done.get_asset_check_evaluations()[0].passed

    layout = settings.layout
    sources = (Source("list", SourceKind.URL_LIST, ("list.tsv",)),)
    for number, batch in enumerate(("first", "second")):
        write_batch(CrawlBatch(batch, sources), layout)
        copy = row(number, "a snail that was copied", encoded(on_white(artwork()["snail"]), "JPEG"))
        own = row(10 + number, "a camel that is our own", artwork()["camel"])
        fetched_pairs(layout, batch, [copy, own])
        curate_pairs(batch, layout, CURATE, Engine())
        done = materialize(settings, deduped_pairs, batch)
        (event,) = done.get_asset_materialization_events()
        metadata = event.materialization.metadata
        assert "data:image/" in metadata["caught"].value
        assert all(check.passed for check in done.get_asset_check_evaluations())
        assert metadata["rows kept"].value == (1 if batch == "first" else 0)

    rejects = layout.rejects("dedupe", "second")
    index, deduped = layout.dataset("coco_hash_index"), layout.dataset("deduped_pairs", "second")
    (caught,) = caught_copies(deduped, rejects, index, 9)
    assert (caught.reference, caught.caption) == ("snail.png", "a snail that was copied")
    assert caught.original[8:12] == b"WEBP"
