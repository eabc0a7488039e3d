"""The whole graph on a small web, through `dagster job launch` and the daemon."""

import json
import time
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
from deployment import FinishedSite, run_demo, still_running
from safetensors import safe_open
from tokenizers import Tokenizer

from assets.definitions import defs
from pipelines import ledger
from pipelines.layout import Layout
from pipelines.publish.manifest import read_manifest, verify

pytestmark = pytest.mark.slow

DATASETS = (
    "image_text_candidates",
    "fetched_pairs",
    "curated_pairs",
    "deduped_pairs",
    "token_grids",
)
OPTIONAL = ("nsfw_scores", "text_area_scores", "clip_scores", "embedding_overlap")
OPTIONAL += ("model_comparison", "promoted_model")
ASSETS = (*DATASETS, "coco_hash_index", "bpe_tokenizer", "dvae", "token_dataset", "dalle")
ASSETS += ("contrastive", "samples", "evaluation")


def test_every_asset_is_materialised(finished_site: FinishedSite) -> None:
    with finished_site.instance() as instance:
        events = instance.get_latest_materialization_events([dg.AssetKey(a) for a in ASSETS])
        missing = [key.to_user_string() for key, event in events.items() if event is None]
        assert not missing
        runs = instance.get_runs()
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        observed = instance.fetch_observations(dg.AssetKey("dvae"), limit=1).records
        assert observed, "training reported while it ran"
    assert "[13/13]" in finished_site.output
    assert still_running(finished_site.directory, within=5) == []


def test_every_page_tells_its_rows(finished_site: FinishedSite) -> None:
    keys = defs.resolve_asset_graph().get_all_asset_keys()
    with finished_site.instance() as instance:
        events = instance.get_latest_materialization_events(keys)
    shown = {
        key.to_user_string(): event.asset_materialization.metadata
        for key, event in events.items()
        if event is not None
    }
    assert shown.keys() == {key.to_user_string() for key in keys} - set(OPTIONAL)
    for asset, page in shown.items():
        rows = _rows(asset, Path(page["dagster/uri"].value))
        assert page["dagster/row_count"].value == rows > 0, asset


def _rows(asset: str, place: Path) -> int:
    """Counted in what the asset left at `place`."""
    match asset:
        case "bpe_tokenizer":
            return Tokenizer.from_file(str(place / "tokenizer.json")).get_vocab_size()
        case "dvae" | "contrastive" | "dalle":
            with safe_open(place / "final" / "model.safetensors", "numpy") as tensors:
                return len(list(tensors.keys()))
        case "samples":
            return len(json.loads((place / "samples.json").read_text())["captions"])
    where = "tokens/*.parquet" if asset == "token_dataset" else "*.parquet"
    return sum(pq.read_metadata(part).num_rows for part in place.glob(where))


def test_the_funnel_adds_up(finished_site: FinishedSite) -> None:
    layout = Layout(str(finished_site.data))
    before = None
    for dataset in DATASETS:
        finished = ledger.require_success(layout.dataset(dataset, "demo"))
        finished.funnel.check(dataset)
        if before is not None:
            assert finished.funnel.rows_in == before, dataset
        before = finished.funnel.kept
        assert f"{dataset} " in finished_site.output


def test_the_version_is_whole(finished_site: FinishedSite) -> None:
    manifest = read_manifest(Layout(str(finished_site.data)).token_dataset)
    verify(manifest)
    rows = sum(pq.read_metadata(manifest.url(f)).num_rows for f in manifest.token_files)
    grids = ledger.require_success(Layout(str(finished_site.data)).dataset("token_grids", "demo"))
    assert rows == manifest.rows == grids.rows > 20


def test_the_results_are_gathered(finished_site: FinishedSite) -> None:
    folder = finished_site.directory / "demo"
    for name in ("contact_sheet.png", "reconstructions.png", "curves.png", "funnel.txt"):
        assert (folder / name).stat().st_size > 100, name
    copies = json.loads((folder / "results.json").read_text())["reference_copies"]
    told = copies["caught"] + len(copies["missed"]) + copies["earlier"]
    assert told == copies["fetched"] > 0
    assert copies["caught"] > 0
    assert copies["innocent"] == []
    assert finished_site.output.splitlines()[-1].endswith("`make up` opens the Dagster UI.")
    assert "contact_sheet.png" in finished_site.output.splitlines()[-1]


def test_a_second_run_takes_seconds(finished_site: FinishedSite) -> None:
    started = time.monotonic()
    done = run_demo(finished_site)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30
    assert "nothing to run" in done.stdout


def test_every_check_passed(finished_site: FinishedSite) -> None:
    from assets.definitions import defs

    keys = list(defs.resolve_asset_graph().asset_check_keys)
    with finished_site.instance() as instance:
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert {key.name: latest[key].status.value for key in keys if key in latest} == {
        key.name: "SUCCEEDED" for key in keys if key.asset_key.path[-1] not in OPTIONAL
    }
