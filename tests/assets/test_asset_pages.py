"""What the data assets' pages hold, from real materialisations: rows, columns, what was dropped."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import whole_batches
from fetched_corpus import artwork, fetched_pairs, row

from assets.curate import curated_pairs
from assets.dedupe import coco_hash_index, deduped_pairs
from assets.definitions import defs
from assets.encode import token_grids
from assets.lib import trainer
from assets.publish import token_dataset
from assets.scores import nsfw_scores, text_area_scores
from assets.train import contrastive, dalle, dvae
from assets.validate import _page, evaluation, model_comparison, promoted_model
from pipelines import ledger, schemas
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.curate import score_models
from pipelines.curate.scores import Score, scores_schema
from pipelines.dedupe.embedding_schema import overlap_schema
from training import finished, recipes
from training.models.dvae import DVAE
from training.promotion import versions
from training.promotion.comparison import Check, Comparison

MOST_BYTES = 200_000
# What has no asset of its own.
_OTHERS = ("rejects", "token_metadata")
PARQUET = {
    **{name: schema for name, schema in schemas.DATASETS.items() if name not in _OTHERS},
    "token_dataset": schemas.DATASETS["token_grids"],
    "embedding_overlap": overlap_schema(),
    "nsfw_scores": scores_schema("nsfw", score_models.NSFW_DOC),
    "text_area_scores": scores_schema("text_area", score_models.TEXT_DOC),
    "clip_scores": scores_schema("clip", score_models.CLIP_DOC),
}


@pytest.fixture(scope="module", autouse=True)
def _patched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "demo", whole_batches.recipe)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batches; of the second, one picture cannot be decoded when it is encoded."""
    root = tmp_path_factory.mktemp("pages")
    layout = whole_batches.build(root).layout
    directory = Path(layout.dataset("deduped_pairs", "b"))
    (part,) = directory.glob("*.parquet")
    table = pq.read_table(part)
    images = [b"no picture", *table.column("image").to_pylist()[1:]]
    place = table.schema.get_field_index("image")
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.array(images, field.type)), part)
    marker = directory / ledger.SUCCESS
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"bytes": part.stat().st_size}))
    shutil.rmtree(layout.dataset("token_grids", "b"))
    return root


def page(root: Path, asset: dg.AssetsDefinition, batch: str | None = None) -> dict[str, Any]:
    """Metadata of one materialisation, none of whose events is too large for the log."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("crawl_batch", ["a", "b"])
        dg.materialize(
            [asset],
            instance=instance,
            partition_key=batch,
            resources={"settings": whole_batches.settings(root)},
        )
        (record,) = instance.fetch_materializations(asset.key, limit=1).records
        assert len(dg.serialize_value(record.event_log_entry)) < MOST_BYTES
        assert record.asset_materialization is not None
        return dict(record.asset_materialization.metadata)


def records(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.records]


@pytest.mark.parametrize("name", PARQUET)
def test_the_definition_of_a_dataset_names_its_columns(name: str) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(name))
    columns = node.metadata["dagster/column_schema"].columns
    assert [(c.name, c.type) for c in columns] == [(f.name, str(f.type)) for f in PARQUET[name]]
    assert all(column.description for column in columns)
    nullable = [column.constraints.nullable for column in columns]
    assert nullable == [field.nullable for field in PARQUET[name]]


@pytest.mark.parametrize(
    ("asset", "batch"),
    [(coco_hash_index, None), (curated_pairs, "b"), (deduped_pairs, "b"), (token_grids, "a")],
)
def test_a_materialisation_tells_its_rows(
    root: Path, asset: dg.AssetsDefinition, batch: str | None
) -> None:
    name = asset.key.to_user_string()
    directory = Path(whole_batches.settings(root).layout.dataset(name, batch))
    rows = sum(pq.read_metadata(part).num_rows for part in directory.glob("*.parquet"))
    assert page(root, asset, batch)["dagster/row_count"].value == rows > 0


def test_a_version_tells_its_rows_and_the_evaluation_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = whole_batches.build(tmp_path, "a")
    shown = page(tmp_path, token_dataset)
    tables = Path(shown["dagster/uri"].value, "tokens").glob("*.parquet")
    assert shown["dagster/row_count"].value == sum(pq.read_metadata(t).num_rows for t in tables)

    def evaluate(_context: object, _program: object) -> None:
        directory = Path(settings.layout.evaluation)
        directory.mkdir()
        figures = {"psnr_db": 12.5, "dalle_sha256": "0123456789abcdef" * 4}
        (directory / "evaluation.json").write_text(json.dumps(figures))
        (directory / "report.md").write_text("# dalle\n\n| figure |\n|---|\n" + "| x |\n" * 90_000)
        own = directory / "model=0123456789ab"
        own.mkdir()
        (own / "report.html").write_text("<!doctype html>")

    monkeypatch.setattr(trainer, "run", evaluate)
    monkeypatch.setenv("DALLE_PORT", "4000")
    shown = page(tmp_path, evaluation)
    assert isinstance(shown["report"], dg.MarkdownMetadataValue), "the UI opens it"
    assert shown["report"].value.startswith("# dalle")
    link = "http://127.0.0.1:4001/model=0123456789ab/report.html"
    assert shown["report with pictures"] == dg.MetadataValue.url(link)
    # The promoted model's page links in the same way, and to no report that was never written.
    assert _page(settings, "0123456789ab" + "0" * 52)["report with pictures"].value == link
    assert _page(settings, "f" * 64) == {}
    assert shown["psnr_db"].value == 12.5
    assert shown["dagster/row_count"].value == 2, "figures"


def test_a_model_tells_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    layout = whole_batches.build(tmp_path, "a").layout
    version = page(tmp_path, token_dataset)["version"].value
    for name in ("dalle", "contrastive"):
        summary = {"dataset": version, "recipe": "demo"}
        finished.write(Path(layout.model(name)), "test", nn.Linear(2, 3), {}, summary)

    def compare(_context: object, program: trainer.TrainingProgram) -> None:
        if program.module == "training.promote":
            problems: dict[str, list[str]] = {check: [] for check in Check}
            model = versions.candidate(layout)
            Comparison(model, 0, "", {"margin": 0.02, "nats": 1.5}, problems).write(layout)

    # The models are there; a test of the whole graph trains some.
    monkeypatch.setattr(trainer, "run", compare)
    for model in (dalle, contrastive):
        assert page(tmp_path, model)["dagster/row_count"].value == 2, "weight and bias"
    of_dvae = page(tmp_path, dvae)["dagster/row_count"].value
    assert of_dvae == len(list(DVAE(whole_batches.recipe().dvae).parameters()))
    assert page(tmp_path, model_comparison)["dagster/row_count"].value == 2, "figures"
    assert page(tmp_path, promoted_model)["dagster/row_count"].value == 2 + of_dvae


@pytest.mark.parametrize(
    ("asset", "name"), [(nsfw_scores, "nsfw_score"), (text_area_scores, "text_score")]
)
def test_scores_tell_their_rows(
    root: Path, monkeypatch: pytest.MonkeyPatch, asset: dg.AssetsDefinition, name: str
) -> None:
    column = asset.key.to_user_string().removesuffix("_scores")
    score = Score(column, "none", _load_scorer, "none 1")
    monkeypatch.setattr(score_models, name, lambda: score)
    curated = whole_batches.settings(root).layout.dataset("curated_pairs", "a")
    rows = ledger.require_success(curated).rows
    assert page(root, asset, "a")["dagster/row_count"].value == rows


def _load_scorer() -> Any:
    return lambda images, _captions: np.zeros(len(images), np.float32)


def test_rows_without_a_picture_are_among_the_examples(tmp_path: Path) -> None:
    layout = whole_batches.settings(tmp_path).layout
    sources = (Source("l", SourceKind.URL_LIST, ("l.tsv",)),)
    write_batch(CrawlBatch("b", sources), layout)
    bad = row(1, "a rocket that flies to the moon", b"<html>" + b" " * 500)
    fetched_pairs(layout, "b", [bad, row(2, "sale sale sale", artwork()["rocket"])])
    shown = page(tmp_path, curated_pairs, "b")
    repetitive, undecodable = records(shown["examples of rows dropped"])
    assert undecodable["reason"] == "not_an_image"
    assert undecodable["detail"].startswith("none of JPEG")
    assert (undecodable["url"], undecodable["caption"]) == (bad["url"], bad["caption_raw"])
    found = (repetitive["reason"], repetitive["caption"])
    assert found == ("caption_repetitive", "sale sale sale")
    assert "data:image/" in shown["dropped"].value


def test_repeats_are_beside_what_is_kept(root: Path) -> None:
    shown = page(root, deduped_pairs, "b")
    assert "data:image/" in shown["repeats"].value
    assert "caught" not in shown
    examples = records(shown["examples of rows dropped"])
    assert [row["reason"] for row in examples] == ["repeat", "repeat"]
    assert all("kept_uid" in row["detail"] for row in examples)
    assert "repeats" not in page(root, deduped_pairs, "a")


def test_tokens_name_what_they_could_not_encode(root: Path) -> None:
    (row,) = records(page(root, token_grids, "b")["examples of rows dropped"])
    assert row["reason"] == "undecodable_image"
    assert "examples of rows dropped" not in page(root, token_grids, "a")
