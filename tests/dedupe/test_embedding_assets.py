"""The assets that hang on an image-text model, with an open_clip checkpoint given by path."""

import json
from pathlib import Path

import dagster as dg
import open_clip_peer
import pytest
from fetched_corpus import artwork, fetched_pairs, read_all, row
from safetensors.torch import save_file

from assets import scores, second_opinion
from assets.lib.home import UserError
from assets.lib.partitions import crawl_batches
from assets.lib.settings import Settings
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.runners import Engine

REFERENCES = ("snail", "guitar")
CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
DEDUPE = DedupeConfig(measured_references=0, near_repeats=False)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("second_opinion")
    (root / "references").mkdir()
    for name in REFERENCES:
        (root / "references" / f"{name}.png").write_bytes(artwork()[name])
    found = Settings(
        data_root=str(root / "data"),
        recipe="demo",
        reference_images=str(root / "references"),
        processes=1,
        clip_checkpoint=str(checkpoint(root)),
    )
    layout = found.layout
    names = sorted(artwork())[::150]
    rows = [row(i, f"{name} as an emoji", artwork()[name]) for i, name in enumerate(names)]
    write_batch(CrawlBatch("a", (Source("unused", SourceKind.URL_LIST, ("unused.csv",)),)), layout)
    fetched_pairs(layout, "a", rows)
    curate_pairs("a", layout, CURATE, Engine())
    build_index(found.reference_images, layout, DEDUPE)
    dedupe_pairs("a", layout, DEDUPE, Engine())
    return found


def checkpoint(root: Path) -> Path:
    config = open_clip_peer.TINY | {
        "text_cfg": open_clip_peer.TINY["text_cfg"] | {"context_length": 77, "vocab_size": 49408}
    }
    save_file(open_clip_peer.clip(config).state_dict(), root / "tiny.safetensors")
    (root / "tiny.json").write_text(json.dumps(config))
    return root / "tiny.safetensors"


def materialize(
    settings: Settings, asset: dg.AssetsDefinition, checks: list, **options: object
) -> dg.ExecuteInProcessResult:
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions(crawl_batches.name, ["a"])
    own = [c for c in checks if asset.key in {k.asset_key for k in c.check_keys}]
    return dg.materialize(
        [asset, *own],
        resources={"settings": settings},
        instance=instance,
        partition_key="a",
        **options,
    )


def with_checkpoint(settings: Settings, path: str) -> Settings:
    return Settings(
        data_root=settings.data_root,
        recipe="demo",
        reference_images=settings.reference_images,
        processes=1,
        clip_checkpoint=path,
    )


def test_the_similarity_of_each_pair_is_a_column(settings: Settings) -> None:
    done = materialize(settings, scores.clip_scores, scores.CHECKS)
    assert [check.passed for check in done.get_asset_check_evaluations()] == [True]
    pairs = read_all(settings.layout.dataset("curated_pairs", "a"))
    found = read_all(settings.layout.dataset("clip_scores", "a"))
    (event,) = done.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == found.num_rows
    assert found.column("uid").to_pylist() == pairs.column("uid").to_pylist()
    assert all(-1 <= value <= 1 for value in found.column("clip").to_pylist())
    assert len(set(found.column("clip").to_pylist())) > 5
    assert (found.schema.metadata or {})[b"model"].startswith(b"tiny.safetensors ")


def test_the_page_shows_the_nearest_references_and_the_threshold_is_a_setting(
    settings: Settings,
) -> None:
    asset, checks = second_opinion.embedding_overlap, second_opinion.CHECKS
    config = {"ops": {"embedding_overlap": {"config": {"threshold": -1.0}}}}
    done = materialize(settings, asset, checks, run_config=config)
    assert [check.passed for check in done.get_asset_check_evaluations()] == [True]
    (event,) = done.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert "data:image/" in metadata["nearest"].value
    rows = read_all(settings.layout.dataset("embedding_overlap", "a")).to_pylist()
    assert metadata["flagged"].value == metadata["dagster/row_count"].value == len(rows) > 10
    assert {r["reference"] for r in rows} <= {f"{name}.png" for name in REFERENCES}
    done = materialize(settings, asset, checks)
    (event,) = done.get_asset_materialization_events()
    assert event.materialization.metadata["threshold"].value == 0.95


def test_without_a_model_it_is_said_what_to_do(settings: Settings) -> None:
    none = with_checkpoint(settings, "")
    with pytest.raises(UserError, match="launch the job train_contrastive, or set"):
        materialize(none, scores.clip_scores, [])
    wrong = with_checkpoint(settings, "/nowhere/model.pt")
    with pytest.raises(UserError, match="is no contrastive model; give"):
        materialize(wrong, second_opinion.embedding_overlap, [])
