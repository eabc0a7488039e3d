"""crawl: URL lists, web archives and pages to image bytes."""

import dagster as dg

from assets.lib import crawl_page, report
from assets.lib.contract_checks import contract_check, kept_in, ledger_check, rows_check
from assets.lib.crawl_checks import broken_rows_check, success_rate_check
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from assets.lib.stages import crawl_configs
from pipelines import code_versions, schemas, storage

GROUP = "crawl"


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    code_version=code_versions.CANDIDATES,
    metadata=report.definition_metadata(schemas.IMAGE_TEXT_CANDIDATES),
    pool="crawl",
)
def image_text_candidates(
    context: dg.AssetExecutionContext, settings: Settings
) -> dg.MaterializeResult:
    """(url, caption) rows found in the batch's lists, archives and pages.

    Rows that cannot be read, and pairs that this batch or an earlier one of the same source
    already has, are counted by reason and kept in `rejects`.
    """
    from pipelines.crawl.batches import read_batch
    from pipelines.crawl.candidates import extract_candidates

    batch, layout = registered_batch(context, settings), settings.layout
    config, _ = crawl_configs(read_batch(batch, layout), settings.crawl)
    finished = extract_candidates(batch, layout, config, settings.engine)
    directory = layout.dataset(finished.dataset, batch)
    rejects = layout.rejects(GROUP, batch)
    return crawl_page.materialized_candidates(finished, directory, rejects)


@dg.asset(
    group_name=GROUP,
    kinds={"img2dataset", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[image_text_candidates],
    code_version=code_versions.FETCH,
    metadata=report.definition_metadata(schemas.FETCHED_PAIRS),
    pool="crawl",
)
def fetched_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """The bytes behind every candidate, fetched once, with a terminal outcome per URL.

    Materialise a batch again to fetch only what failed and may succeed (`retryable`): everything
    else stays as it is. The web changes, so a day later is better than at once.
    """
    from pipelines.crawl import progress
    from pipelines.crawl.batches import read_batch
    from pipelines.crawl.fetch import fetch_pairs
    from pipelines.crawl.fetch_inputs import count_urls

    batch, layout = registered_batch(context, settings), settings.layout
    _, config = crawl_configs(read_batch(batch, layout), settings.crawl)
    directory = layout.dataset("fetched_pairs", batch)
    candidates = layout.dataset("image_text_candidates", batch)
    total = count_urls(storage.list_files(candidates, ".parquet"))
    with progress.watch(directory, total, report=context.log.info):
        finished = fetch_pairs(batch, layout, config, settings.engine)
    return crawl_page.materialized_fetch(finished, directory)


BATCH_CHECKS = [
    contract_check("image_text_candidates", lambda _settings: schemas.IMAGE_TEXT_CANDIDATES),
    contract_check("fetched_pairs", lambda _settings: schemas.FETCHED_PAIRS),
    rows_check("image_text_candidates"),
    ledger_check("image_text_candidates", schemas.Stage.CRAWL),
    # A URL that could not be fetched stays in the dataset, with its outcome.
    rows_check("fetched_pairs"),
    ledger_check("fetched_pairs", None, kept_in("image_text_candidates")),
]
CHECKS = [
    *(check.asset_check() for check in BATCH_CHECKS),
    broken_rows_check(image_text_candidates),
    success_rate_check(fetched_pairs),
]
ASSETS = [image_text_candidates, fetched_pairs]
