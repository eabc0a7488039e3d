"""dedupe: no near-duplicates of the reference images, no repeats inside the crawl."""

import dagster as dg

from assets.curate import curated_pairs
from assets.lib import exhibits, report
from assets.lib.contract_checks import (
    batch_check,
    contract_check,
    contract_problems,
    kept_in,
    ledger_check,
    result,
)
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from pipelines import schemas

GROUP = "dedupe"
CODE_VERSION = "1"
_PAIRS_LOOKED_AT = 5000


@dg.asset(
    group_name=GROUP,
    kinds={"faiss", "parquet"},
    owners=["team:data"],
    code_version=CODE_VERSION,
    metadata=report.definition_metadata(schemas.COCO_HASH_INDEX),
)
def coco_hash_index(settings: Settings) -> dg.MaterializeResult:
    """Hashes of the reference images (MS-COCO, or its stand-in), and their measured recall."""
    from pipelines.dedupe.reference_index import build_index

    layout = settings.layout
    finished = build_index(settings.reference_images, layout, settings.stages().dedupe)
    return report.materialized(finished, layout.dataset(finished.dataset))


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "faiss", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[curated_pairs, coco_hash_index],
    code_version=CODE_VERSION,
    metadata=report.definition_metadata(schemas.DEDUPED_PAIRS),
)
def deduped_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Pairs without near-duplicates of the reference images, and without repeats."""
    from pipelines.dedupe.transform import dedupe_pairs

    batch, stages = registered_batch(context, settings), settings.stages()
    layout = settings.layout
    finished = dedupe_pairs(batch, layout, stages.dedupe, stages.engine)
    directory = layout.dataset(finished.dataset, batch)
    caught = exhibits.caught_copies(
        layout.rejects(schemas.Stage.DEDUPE, batch), settings.reference_images
    )
    return report.materialized(finished, directory, exhibits.dataset_sheet(directory) | caught)


@dg.asset_check(asset=coco_hash_index, name="coco_hash_index_contract", blocking=True)
def index_keeps_the_contract(settings: Settings) -> dg.AssetCheckResult:
    """Every file of the index has exactly the contract's columns and the marker's rows."""
    directory = settings.layout.dataset("coco_hash_index")
    return result(contract_problems(directory, schemas.COCO_HASH_INDEX))


def _remaining_copies(settings: Settings, batch: str) -> list[str]:
    from pipelines.dedupe.verify import verify_no_reference_copies

    config = settings.stages().dedupe
    found = verify_no_reference_copies(settings.layout, batch, config, _PAIRS_LOOKED_AT)
    return [f"{copy.uid} is a copy of {copy.match.reference}" for copy in found]


CHECKS = [
    index_keeps_the_contract,
    contract_check(deduped_pairs, lambda _settings: schemas.DEDUPED_PAIRS, "deduped_pairs"),
    ledger_check(deduped_pairs, "deduped_pairs", schemas.Stage.DEDUPE, kept_in("curated_pairs")),
    batch_check(
        deduped_pairs,
        "no_reference_copy_remains",
        f"no kept pair is a near-duplicate of a reference image; {_PAIRS_LOOKED_AT} pairs of the "
        "batch are compared with every reference by brute force",
        _remaining_copies,
    ),
]
ASSETS = [coco_hash_index, deduped_pairs]
