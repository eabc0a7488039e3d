"""Nothing is published that breaks a blocking check, whoever made it and whether it ever ran."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import whole_batches
from safetensors.torch import load_file, save_file

from assets.definitions import defs
from assets.lib.settings import Settings
from assets.publish import _batch_checks, token_dataset
from pipelines import ledger, storage
from training import recipes


@pytest.fixture(scope="module", autouse=True)
def _recipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "demo", whole_batches.recipe)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    whole_batches.build(root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "root")
    return tmp_path / "root"


def publish(settings: Settings) -> str:
    """Materialise the asset; why it failed, empty if it did not."""
    result = dg.materialize([token_dataset], resources={"settings": settings}, raise_on_error=False)
    failure = result.failure_data_for_node("token_dataset")
    if failure is None:
        return ""
    assert failure.user_failure_data is not None, failure.error
    return failure.user_failure_data.description


def _contract(root: Path, dataset: str) -> None:
    part = next((root / "data" / dataset / "batch=a").glob("*.parquet"))
    pq.write_table(pq.read_table(part).drop_columns(["url"]), part)


def _rejects(root: Path) -> None:
    shutil.rmtree(root / "data/rejects/stage=curate/batch=a", ignore_errors=True)
    marker = root / "data/curated_pairs/batch=a" / ledger.SUCCESS
    value = json.loads(marker.read_text())
    value["funnel"] = {"rows_in": 10, "kept": 9, "dropped": {"too_small": 1}}
    marker.write_text(json.dumps(value))


def _rows(root: Path) -> None:
    part = next((root / "data/curated_pairs/batch=a").glob("*.parquet"))
    table = pq.read_table(part)
    again = table.take([0, 0, *range(2, table.num_rows)])
    pq.write_table(again.cast(table.schema), part)


def _nan(root: Path) -> None:
    path = root / "data/models/dvae/final/model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)


def _collapse(root: Path) -> None:
    path = root / "data/models/dvae/final/summary.json"
    path.write_text(json.dumps({"codebook_perplexity": 1.0, "psnr_db": 12.0}))


def _contract_of_the_index(root: Path) -> None:
    part = next((root / "data/coco_hash_index").glob("*.parquet"))
    pq.write_table(pq.read_table(part).drop_columns(["variant"]), part)


def _order(root: Path) -> None:
    marker = root / "data/deduped_pairs/batch=b" / ledger.SUCCESS
    value = json.loads(marker.read_text())
    assert [name for name, _ in value["details"]["earlier_batches"]] == ["a"]
    value["details"]["earlier_batches"] = []
    marker.write_text(json.dumps(value))


SPOILT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "reference copy": (
        lambda root: whole_batches.write_references(root, whole_batches.names(0)[:1]),
        "Batch a cannot be published, since no_reference_copy_remains fails (",
        "deduped_pairs/batch=a away and launch build_dataset for it again",
    ),
    "columns of an early stage": (
        lambda root: _contract(root, "fetched_pairs"),
        "Batch a cannot be published, since fetched_pairs_contract fails (",
        "missing column 'url'",
    ),
    "rejects that are gone": (
        _rejects,
        "Batch a cannot be published, since curated_pairs_ledger fails (",
        "1 dropped by the ledger, 0 rows",
    ),
    "a row twice": (
        _rows,
        "Batch a cannot be published, since curated_pairs_rows fails (",
        "uid seen before",
    ),
    "an earlier batch that was finished later": (
        _order,
        "Batch b cannot be published, since earlier_batches_searched fails (a was registered",
        "launch deduped_pairs of b again",
    ),
    "a file cut off": (
        lambda root: (root / "data/token_grids/batch=b/part-00000.parquet").write_bytes(b"PAR1"),
        "Batch b cannot be published, since token_grids_contract fails (",
        "token_grids/batch=b away and launch encode_pairs for it again",
    ),
    "a weight that is no number": (
        _nan,
        "The dataset cannot be published, since dvae_weights_finite fails (",
        "launch train_dvae, then encode_pairs for every batch",
    ),
    "one code for all": (
        _collapse,
        "The dataset cannot be published, since dvae_codebook_alive fails (",
        "launch train_dvae, then encode_pairs for every batch",
    ),
    "another dVAE since": (
        lambda root: whole_batches.write_dvae(whole_batches.settings(root), seed=1),
        "Batch a cannot be published, since dvae_weights_finite fails (its tokens were not made",
        "launch encode_pairs for it again",
    ),
    "columns of the index": (
        _contract_of_the_index,
        "The dataset cannot be published, since coco_hash_index_contract fails (",
        "launch build_reference, then build_dataset for every batch",
    ),
}


@pytest.mark.parametrize("defect", SPOILT)
def test_what_breaks_a_check_is_never_published(root: Path, defect: str) -> None:
    spoil, *said = SPOILT[defect]
    spoil(root)
    settings = whole_batches.settings(root)
    description = publish(settings)
    for words in said:
        assert words in description
    assert "\n" not in description
    assert not storage.exists(settings.layout.token_dataset)


def test_what_keeps_every_check_is_published(root: Path) -> None:
    settings = whole_batches.settings(root)
    assert publish(settings) == ""
    (card,) = Path(settings.layout.token_dataset).glob("v=*/README.md")
    assert Path(settings.layout.token_dataset, "CURRENT").exists()
    for threshold in ("min_side | 32", "detector | lid176", "confirm | 56"):
        assert f"| {threshold} |" in card.read_text()


def test_publishing_asks_every_blocking_check_before_it() -> None:
    """A check that is added to a stage later is not forgotten."""
    graph = defs.resolve_asset_graph()
    before = graph.get(token_dataset.key).parent_keys
    while (more := before | {p for key in before for p in graph.get(key).parent_keys}) != before:
        before = more
    blocking = {
        key.name
        for key in graph.asset_check_keys
        if key.asset_key in before and graph.get_check_spec(key).blocking
    }
    others = {"coco_hash_index_contract", "dvae_weights_finite", "dvae_codebook_alive"}
    assert {check.name for check in _batch_checks()} | others == blocking
