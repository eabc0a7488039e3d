"""publish: immutable versions of the token dataset."""

import functools
from collections.abc import Sequence

import dagster as dg

from assets import crawl, curate, dedupe, encode
from assets.encode import bpe_tokenizer, token_grids, token_schema
from assets.lib import exhibits, model_checks, report
from assets.lib.contract_checks import BatchCheck, result
from assets.lib.freshness import WEEKLY
from assets.lib.models import file_version, final
from assets.lib.partitions import all_finished_batches
from assets.lib.settings import Settings
from assets.lib.stages import takedown_list
from pipelines import code_versions, ledger, schemas
from pipelines.contract import schema_problems
from pipelines.layout import join
from pipelines.publish.manifest import DatasetError, Manifest, read_manifest, verify


@dg.asset(
    group_name="publish",
    kinds={"parquet"},
    owners=["team:data"],
    deps=[token_grids, bpe_tokenizer, dg.AssetKey("dvae")],
    code_version=code_versions.PUBLISH,
    metadata=report.definition_metadata(schemas.DATASETS["token_grids"]),
    freshness_policy=WEEKLY,
)
def token_dataset(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """A version: Parquet files, manifest and card; the gate between data and training.

    A blocking check stops only its own run, so every blocking check of what is published runs
    here once more: a manifest that was never written stops every training.
    """
    from pipelines.crawl.consent.takedown import read_takedown
    from pipelines.publish.dataset import publish

    takedown = read_takedown(takedown_list(settings.crawl))
    layout = settings.layout
    batches = all_finished_batches(layout, "token_grids")
    _require_every_check(settings, batches)
    manifest = publish(batches, layout, settings.stages().publish, takedown)
    context.log.info("version %s: %d rows", manifest.version, manifest.rows)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.version),
        metadata={
            "dagster/row_count": manifest.rows,
            "dagster/uri": manifest.directory,
            **exhibits.samples(manifest),
            "where the rows went": _whole_funnel(manifest),
            "version": manifest.version,
            "batches": list(manifest.batches),
            "grid": manifest.grid,
            "text vocabulary": manifest.text_vocabulary,
            "image vocabulary": manifest.image_vocabulary,
            "tokenizer sha256": manifest.tokenizer_sha256,
            "dvae sha256": manifest.dvae_sha256,
            "bytes": sum(file.bytes for file in manifest.files),
        },
    )


def _require_every_check(settings: Settings, batches: Sequence[str]) -> None:
    """Look once more at the stored data: nobody knows whether, and when, Dagster did.

    Raises:
        dg.Failure: naming the first check that fails, and what to do.
    """
    layout = settings.layout
    for problem in dedupe.index_problems(settings):
        remedy = "launch build_reference, then build_dataset for every batch"
        raise _refused("The dataset", "coco_hash_index_contract", problem, remedy)
    model = layout.model("dvae")
    for name, problem in model_checks.dvae_problems(settings):
        remedy = f"move {model} away, launch train_dvae, then encode_pairs for every batch"
        raise _refused("The dataset", name, problem, remedy)
    weights = file_version(final(model, "model.safetensors"))
    checks = _batch_checks()
    for batch in batches:
        _require_batch(settings, batch, checks)
        tokens = ledger.require_success(layout.dataset("token_grids", batch))
        if not tokens.details["provenance"]["dvae_sha256"].startswith(weights):
            # What was found of the present dVAE says nothing about the one of these tokens.
            problem = f"its tokens were not made by the dVAE in {model}"
            remedy = "launch encode_pairs for it again"
            raise _refused(f"Batch {batch}", "dvae_weights_finite", problem, remedy)


def _batch_checks() -> list[BatchCheck]:
    """Every blocking check of a batch, to be asked of many."""
    return [
        *crawl.BATCH_CHECKS,
        *curate.BATCH_CHECKS,
        *dedupe.BATCH_CHECKS,
        *encode.BATCH_CHECKS,
        dedupe.order_check(functools.cache(dedupe.searches)),
    ]


def _require_batch(settings: Settings, batch: str, checks: Sequence[BatchCheck]) -> None:
    for check in checks:
        problem = check.problem(settings, batch)
        if problem is not None:
            job = "encode_pairs" if check.dataset == "token_grids" else "build_dataset"
            directory = settings.layout.dataset(check.dataset, batch)
            remedy = f"move {directory} away and launch {job} for it again"
            raise _refused(f"Batch {batch}", check.name, problem, remedy)


def _refused(what: str, check: str, problem: str, remedy: str) -> dg.Failure:
    return dg.Failure(
        description=f"{what} cannot be published, since {check} fails ({problem}): {remedy}.",
        allow_retries=False,
    )


def _whole_funnel(manifest: Manifest) -> dg.TableMetadataValue:
    """Every dataset of the flow, and the reasons that dropped its rows."""
    rows: list[tuple[str, str, int]] = []
    for record in manifest.funnel():
        rows += [(record.dataset, "in", record.rows_in), (record.dataset, "kept", record.kept)]
        ranked = sorted(record.dropped.items(), key=lambda item: (-item[1], item[0]))
        rows += [(record.dataset, reason, count) for reason, count in ranked]
    return report.table({"dataset": "string", "outcome": "string", "rows": "int"}, rows)


def current_version(settings: Settings) -> str:
    """Directory of the current version.

    Raises:
        FileNotFoundError: if nothing is published.
    """
    return read_manifest(settings.layout.token_dataset).directory


@dg.asset_check(asset=token_dataset, name="token_dataset_files", blocking=True)
def files_are_whole(settings: Settings) -> dg.AssetCheckResult:
    """Every file of the current version has the size and hash that the manifest says."""
    manifest = read_manifest(settings.layout.token_dataset)
    try:
        verify(manifest)
    except DatasetError as error:
        return result([str(error)])
    return result([], files=len(manifest.files))


@dg.asset_check(asset=token_dataset, name="token_dataset_contract", blocking=True)
def files_keep_the_contract(settings: Settings) -> dg.AssetCheckResult:
    """The published tables have exactly the contract's columns."""
    directory = read_manifest(settings.layout.token_dataset).directory
    tables = {"tokens": token_schema(settings), "metadata": schemas.TOKEN_METADATA}
    problems = [
        problem
        for name, schema in tables.items()
        for problem in schema_problems(join(directory, name), schema)
    ]
    return result(problems)


CHECKS = [files_are_whole, files_keep_the_contract]
ASSETS = [token_dataset]
