"""curate: pairs that pass every caption and image rule."""

import math
from typing import Any

import dagster as dg

from assets.crawl import fetched_pairs
from assets.lib import exhibits, report
from assets.lib.contract_checks import contract_check, kept_in, ledger_check, rows_check
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from assets.lib.usual import usual, warning_check
from pipelines import code_versions, ledger, schemas
from pipelines.layout import Layout
from pipelines.ledger import Finished

# Of the usual keep rate; sources differ by less, and a broken rule or detector by more.
_DRIFT = 0.2
# Standard deviations that a small batch may be away by chance.
_CHANCE = 3


@dg.asset(
    group_name="curate",
    kinds={"beam", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[fetched_pairs],
    code_version=code_versions.CURATE,
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
    # Not every row that is dropped is a picture.
    examples = exhibits.reject_examples(finished, rejects)
    return report.materialized(finished, directory, pictures, examples)


def keep_rate(layout: Layout, dataset: str, batch: str) -> dict[str, Any]:
    """Figures of one finished batch, and its `problem`, None if there is none."""
    finished = ledger.require_success(layout.dataset(dataset, batch))
    median, compared = usual(layout, dataset, batch, _rate)
    rate = _rate(finished)
    figures: dict[str, Any] = {"batches compared": compared, "problem": None}
    if rate is None or median is None:
        return figures
    chance = _CHANCE * math.sqrt(median * (1 - median) / finished.funnel.rows_in)
    if abs(rate - median) > max(_DRIFT * median, chance):
        dropped = finished.funnel.dropped
        most = max(dropped, key=lambda reason: dropped[reason], default="none")
        figures["problem"] = (
            f"{batch}: {rate:.1%} of the pairs are kept, usual are {median:.1%}; the most frequent "
            f"reason is {most}"
        )
    return figures | {"keep rate": rate, "usual keep rate": median}


def _rate(finished: Finished) -> float | None:
    funnel = finished.funnel
    return funnel.kept / funnel.rows_in if funnel.rows_in else None


BATCH_CHECKS = [
    contract_check("curated_pairs", lambda _settings: schemas.CURATED_PAIRS),
    rows_check("curated_pairs"),
    ledger_check("curated_pairs", schemas.Stage.CURATE, kept_in("fetched_pairs")),
]
CHECKS = [
    *(check.asset_check() for check in BATCH_CHECKS),
    warning_check(
        curated_pairs,
        "curated_pairs_keep_rate",
        "the share of pairs kept is within a fifth of the other batches' median",
        keep_rate,
    ),
]
ASSETS = [curated_pairs]
