"""crawl: web pages and URL lists to image bytes."""

import dagster as dg

from assets.lib import report
from assets.lib.contract_checks import contract_check, kept_in, ledger_check
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from assets.lib.stages import crawl_configs
from pipelines import schemas

GROUP = "crawl"
CODE_VERSION = "1"


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    code_version=CODE_VERSION,
    metadata=report.definition_metadata(schemas.IMAGE_TEXT_CANDIDATES),
    pool="crawl",
)
def image_text_candidates(
    context: dg.AssetExecutionContext, settings: Settings
) -> dg.MaterializeResult:
    """(url, caption) rows found in the batch's URL lists and pages."""
    from pipelines.crawl.batches import read_batch
    from pipelines.crawl.candidates import extract_candidates

    batch, layout = registered_batch(context, settings), settings.layout
    config, _ = crawl_configs(read_batch(batch, layout), settings.crawl_contact)
    finished = extract_candidates(batch, layout, config, settings.stages().engine)
    return report.materialized(finished, layout.dataset(finished.dataset, batch))


@dg.asset(
    group_name=GROUP,
    kinds={"img2dataset", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[image_text_candidates],
    code_version=CODE_VERSION,
    metadata=report.definition_metadata(schemas.FETCHED_PAIRS),
    pool="crawl",
)
def fetched_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """The bytes behind every candidate, fetched once, with a terminal outcome per URL."""
    from pipelines.crawl.batches import read_batch
    from pipelines.crawl.fetch import fetch_pairs

    batch, layout = registered_batch(context, settings), settings.layout
    _, config = crawl_configs(read_batch(batch, layout), settings.crawl_contact)
    finished = fetch_pairs(batch, layout, config, settings.stages().engine)
    return report.materialized(finished, layout.dataset(finished.dataset, batch))


CHECKS = [
    contract_check(
        image_text_candidates,
        lambda _settings: schemas.IMAGE_TEXT_CANDIDATES,
        "image_text_candidates",
    ),
    contract_check(fetched_pairs, lambda _settings: schemas.FETCHED_PAIRS, "fetched_pairs"),
    ledger_check(image_text_candidates, "image_text_candidates", schemas.Stage.CRAWL),
    # A URL that could not be fetched stays in the dataset, with its outcome.
    ledger_check(fetched_pairs, "fetched_pairs", None, kept_in("image_text_candidates")),
]
ASSETS = [image_text_candidates, fetched_pairs]
