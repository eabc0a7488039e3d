"""curate: pairs that pass every caption and image rule."""

import dagster as dg

from assets.crawl import fetched_pairs
from assets.lib import exhibits, report
from assets.lib.contract_checks import contract_check, kept_in, ledger_check
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from pipelines import schemas

CODE_VERSION = "1"


@dg.asset(
    group_name="curate",
    kinds={"beam", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[fetched_pairs],
    code_version=CODE_VERSION,
    metadata=report.definition_metadata(schemas.CURATED_PAIRS),
)
def curated_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Pairs that pass the caption and image rules; every other row has its reason in rejects."""
    from pipelines.curate.transform import curate_pairs

    batch, stages = registered_batch(context, settings), settings.stages()
    finished = curate_pairs(batch, settings.layout, stages.curate, stages.engine)
    directory = settings.layout.dataset(finished.dataset, batch)
    rejects = settings.layout.rejects(schemas.Stage.CURATE, batch)
    pictures = exhibits.dataset_sheet(directory) | exhibits.reject_sheets(rejects)
    return report.materialized(finished, directory, pictures)


CHECKS = [
    contract_check(curated_pairs, lambda _settings: schemas.CURATED_PAIRS, "curated_pairs"),
    ledger_check(curated_pairs, "curated_pairs", schemas.Stage.CURATE, kept_in("fetched_pairs")),
]
ASSETS = [curated_pairs]
