"""publish: immutable versions of the token dataset."""

import dagster as dg

from assets.encode import bpe_tokenizer, token_grids, token_schema
from assets.lib import exhibits, report
from assets.lib.contract_checks import contract_problems, result, schema_problems
from assets.lib.freshness import WEEKLY
from assets.lib.partitions import all_finished_batches
from assets.lib.settings import Settings
from assets.lib.stages import takedown_list
from pipelines import code_versions, schemas
from pipelines.layout import join
from pipelines.publish.manifest import DatasetError, Manifest, read_manifest, verify
from pipelines.row_rules import offending_rows


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

    A blocking check stops only its own run, so the checks of what is published run here once
    more: a manifest that was never written stops every training.
    """
    from pipelines.crawl.consent.takedown import read_takedown
    from pipelines.publish.dataset import publish

    takedown = read_takedown(takedown_list(settings.crawl))
    layout = settings.layout
    batches = all_finished_batches(layout, "token_grids")
    schema = token_schema(settings)
    for batch in batches:
        directory = layout.dataset("token_grids", batch)
        problems = contract_problems(directory, schema) or [
            ": ".join(map(str, offence)) for offence in offending_rows(directory, "token_grids")
        ]
        if problems:
            raise dg.Failure(
                description=f"Batch {batch} cannot be published: {problems[0]}. "
                f"Launch encode_pairs for it again.",
                allow_retries=False,
            )
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
