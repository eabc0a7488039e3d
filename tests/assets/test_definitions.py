"""The code location: what is in it, and what loading it must not import."""

import json
import subprocess
import sys

import pytest

from assets.definitions import defs
from assets.lib.settings import REPOSITORY
from pipelines import code_versions as data
from pipelines.schemas import Stage
from training import code_versions as models
from training.promotion.comparison import Check

# No job selects them: whoever wants the column materialises them.
SCORES = {"nsfw_scores", "text_area_scores", "clip_scores"}
OPTIONAL = {*SCORES, "embedding_overlap"}
UPSTREAM = {
    "image_text_candidates": set(),
    "fetched_pairs": {"image_text_candidates"},
    "curated_pairs": {"fetched_pairs"},
    "nsfw_scores": {"curated_pairs"},
    "text_area_scores": {"curated_pairs"},
    "clip_scores": {"curated_pairs", "contrastive"},
    "coco_hash_index": set(),
    "deduped_pairs": {"curated_pairs", "coco_hash_index"},
    "embedding_overlap": {"deduped_pairs", "coco_hash_index", "contrastive"},
    "bpe_tokenizer": {"deduped_pairs"},
    "dvae": {"deduped_pairs"},
    "contrastive": {"deduped_pairs", "bpe_tokenizer"},
    "token_grids": {"deduped_pairs", "bpe_tokenizer", "dvae"},
    "token_dataset": {"token_grids", "bpe_tokenizer", "dvae"},
    "dalle": {"token_dataset"},
    "samples": {"dalle", "dvae", "token_dataset", "contrastive"},
    "evaluation": {"dalle", "dvae", "token_dataset", "contrastive", "deduped_pairs"},
    "model_comparison": {"dalle", "dvae", "token_dataset"},
    "promoted_model": {"model_comparison"},
}
GROUPS = {
    "crawl": {"image_text_candidates", "fetched_pairs"},
    "curate": {"curated_pairs", *SCORES},
    "dedupe": {"coco_hash_index", "deduped_pairs", "embedding_overlap"},
    "encode": {"bpe_tokenizer", "token_grids"},
    "publish": {"token_dataset"},
    "train": {"dvae", "dalle", "contrastive"},
    "validate": {"samples", "evaluation", "model_comparison", "promoted_model"},
}
PARTITIONED = {
    "image_text_candidates",
    "fetched_pairs",
    "curated_pairs",
    "deduped_pairs",
    "token_grids",
    *OPTIONAL,
}
HEAVY = {
    "alembic",
    "apache_beam",
    "faiss",
    "img2dataset",
    "matplotlib",
    "pandas",
    "requests",
    "scipy",
    "sqlalchemy",
    "torch",
    "wandb",
}


@pytest.fixture(scope="module")
def graph():
    return defs.resolve_asset_graph()


def test_the_graph_is_the_documented_one(graph) -> None:
    found = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert found == UPSTREAM


def test_groups_are_the_stage_words(graph) -> None:
    found: dict[str, set[str]] = {}
    for key in graph.get_all_asset_keys():
        found.setdefault(graph.get(key).group_name, set()).add(key.to_user_string())
    assert found == GROUPS
    assert sorted(found) == [str(stage) for stage in Stage]


def test_every_asset_is_described(graph) -> None:
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.code_version, key
        assert node.metadata["one row is"], key
        columns = node.metadata["dagster/column_schema"].columns
        assert columns, key
        assert all(column.type and column.description for column in columns), key


def test_no_job_mixes_batches_with_unpartitioned_assets(graph) -> None:
    partitioned = {
        key.to_user_string()
        for key in graph.get_all_asset_keys()
        if graph.get(key).partitions_def is not None
    }
    assert partitioned == PARTITIONED
    jobs = [job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")]
    trainings = {"train_dvae", "train_dalle", "retrain", "train_contrastive"}
    assert {job.name for job in jobs} >= {"collect_pairs", *trainings}
    for job in jobs:
        selected = {k.to_user_string() for k in job.asset_layer.executable_asset_keys}
        assert not selected & OPTIONAL, job.name
        assert selected <= partitioned or not selected & partitioned, job.name


def test_every_parquet_dataset_has_a_blocking_contract_check(graph) -> None:
    checks = {key: graph.get_check_spec(key) for key in graph.asset_check_keys}
    names = {key.name for key, spec in checks.items() if spec.blocking}
    datasets = (*PARTITIONED, "coco_hash_index", "token_dataset")
    assert {f"{name}_contract" for name in datasets} <= names
    assert {f"{name}_ledger" for name in PARTITIONED - OPTIONAL} <= names
    assert {"no_reference_copy_remains", "dvae_codebook_alive", "dalle_weights_finite"} <= names
    assert {f"promotion_{check}" for check in Check} <= names


def test_loading_is_light() -> None:
    code = "import json, sys, assets.definitions; print(json.dumps(sorted(sys.modules)))"
    imported = json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY))
    assert "assets.validate" in imported
    assert not HEAVY & set(imported)


def test_code_versions_are_those_of_the_stages(graph) -> None:
    stages = {
        "image_text_candidates": data.CANDIDATES,
        "fetched_pairs": data.FETCH,
        "curated_pairs": data.CURATE,
        **dict.fromkeys(SCORES, data.SCORES),
        "coco_hash_index": data.REFERENCE_INDEX,
        "deduped_pairs": data.DEDUPE,
        "embedding_overlap": data.EMBEDDING_OVERLAP,
        "bpe_tokenizer": data.TOKENIZER,
        "token_grids": data.TOKEN_GRIDS,
        "token_dataset": data.PUBLISH,
        "dvae": models.DVAE,
        "dalle": models.DALLE,
        "contrastive": models.CONTRASTIVE,
    }
    found = {
        key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()
    }
    assert {name: found[name] for name in stages} == stages
    assert found.keys() - stages.keys() == GROUPS["validate"]
