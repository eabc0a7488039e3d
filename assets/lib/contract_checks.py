"""Blocking checks generated from the data contract, with tables of what breaks it.

The functions are plain: the checks call them after each materialisation, and publishing calls
them again over everything it is about to publish, because a blocking check stops only its own
run.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from assets.lib.partitions import batches_to_check
from assets.lib.report import table
from assets.lib.settings import Settings
from pipelines import ledger, parquet, schemas, storage
from pipelines.layout import Layout
from pipelines.row_rules import offending_rows

# Enough to see what is wrong, little enough for the event log.
_OFFENDERS_SHOWN = 50
_OFFENCE = {"batch": "string", "file": "string", "row": "int", "uid": "string", "problem": "string"}


def schema_problems(directory: str, schema: pa.Schema) -> list[str]:
    """What in the Parquet files of a directory breaks the contract's columns."""
    return [
        f"{url}: {problem}"
        for url in storage.list_files(directory, ".parquet")
        for problem in schemas.violations(schema, parquet.read_schema(url))
    ]


def contract_problems(directory: str, schema: pa.Schema) -> list[str]:
    """As `schema_problems`, and whether a finished directory holds the rows it says."""
    finished = ledger.read_success(directory)
    if finished is None:
        return [f"{directory} has no {ledger.SUCCESS} marker"]
    problems = schema_problems(directory, schema)
    rows = sum(_count_rows(url) for url in storage.list_files(directory, ".parquet"))
    if rows != finished.rows:
        problems.append(f"{directory} holds {rows} rows, its marker says {finished.rows}")
    return problems


def ledger_problems(directory: str, rejects: str | None, rows_in: int | None = None) -> list[str]:
    """Where the counts of a finished directory do not add up.

    Args:
        directory: the dataset.
        rejects: directory of the rows that the stage dropped; None where they stay in the dataset.
        rows_in: rows of the stage before, where every one of them must come in.
    """
    finished = ledger.read_success(directory)
    if finished is None:
        return [f"{directory} has no {ledger.SUCCESS} marker"]
    funnel, problems = finished.funnel, []
    dropped = sum(funnel.dropped.values())
    if funnel.rows_in != funnel.kept + dropped:
        problems.append(f"{funnel.rows_in} in, but {funnel.kept} kept + {dropped} dropped")
    if rows_in is not None and funnel.rows_in != rows_in:
        problems.append(f"{rows_in} rows left the stage before, {funnel.rows_in} came in")
    if rejects is None:
        return problems
    found = sum(_count_rows(url) for url in storage.list_files(rejects, ".parquet"))
    if found != dropped:
        problems.append(f"{dropped} dropped by the ledger, {found} rows in {rejects}")
    return problems


def batch_check(
    asset: dg.AssetsDefinition,
    name: str,
    description: str,
    problems: Callable[[Settings, str], Sequence[str]],
) -> dg.AssetChecksDefinition:
    """A blocking check that runs `problems(settings, batch)` on the run's crawl batch."""

    @dg.asset_check(asset=asset, name=name, description=description, blocking=True)
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        batches = batches_to_check(context, settings.layout, asset.key.to_user_string())
        found = [f"{b}: {problem}" for b in batches for problem in problems(settings, b)]
        return result(found, batches=list(batches))

    return check


def contract_check(
    asset: dg.AssetsDefinition, schema: Callable[[Settings], pa.Schema], dataset: str
) -> dg.AssetChecksDefinition:
    """The blocking contract check of one partitioned Parquet dataset."""

    def problems(settings: Settings, batch: str) -> list[str]:
        return contract_problems(settings.layout.dataset(dataset, batch), schema(settings))

    text = f"every file of {dataset} has exactly the contract's columns and the marker's rows"
    return batch_check(asset, f"{dataset}_contract", text, problems)


def ledger_check(
    asset: dg.AssetsDefinition,
    dataset: str,
    stage: schemas.Stage | None,
    rows_in: Callable[[Layout, str], int | None] = lambda _layout, _batch: None,
) -> dg.AssetChecksDefinition:
    """The blocking check that in = kept + dropped by reason for one partitioned dataset."""

    def problems(settings: Settings, batch: str) -> list[str]:
        layout = settings.layout
        rejects = None if stage is None else layout.rejects(stage, batch)
        return ledger_problems(layout.dataset(dataset, batch), rejects, rows_in(layout, batch))

    text = "rows in = rows kept + rows dropped by reason, and every dropped row is in rejects"
    return batch_check(asset, f"{dataset}_ledger", text, problems)


def rows_check(asset: dg.AssetsDefinition, dataset: str) -> dg.AssetChecksDefinition:
    """The blocking check of the values in one partitioned dataset, row by row."""

    @dg.asset_check(
        asset=asset,
        name=f"{dataset}_rows",
        description="no row is there twice, and every value is possible; the table names the rows",
        blocking=True,
    )
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        layout = settings.layout
        batches = batches_to_check(context, layout, dataset)
        offences = (
            (batch, *offence)
            for batch in batches
            for offence in offending_rows(layout.dataset(dataset, batch), dataset)
        )
        shown = list(itertools.islice(offences, _OFFENDERS_SHOWN))
        more = sum(1 for _ in offences)
        return row_result(_OFFENCE, shown, len(shown) + more, batches=list(batches))

    return check


def kept_in(dataset: str) -> Callable[[Layout, str], int | None]:
    """Rows that the stage before kept in `dataset`."""

    def count(layout: Layout, batch: str) -> int | None:
        finished = ledger.read_success(layout.dataset(dataset, batch))
        return None if finished is None else finished.funnel.kept

    return count


def result(problems: Sequence[str], **metadata: Any) -> dg.AssetCheckResult:
    """Passed if there are no problems; else the first of them."""
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:10]) or None,
        metadata={"problems": len(problems)} | metadata,
    )


def row_result(
    columns: dict[str, str], rows: Sequence[Sequence[Any]], count: int, **metadata: Any
) -> dg.AssetCheckResult:
    """Passed if no row offends; else with a table of the first that do.

    Args:
        columns: of the table, name to type.
        rows: the first offenders, values in the order of `columns`.
        count: how many there are altogether.
        metadata: of the check beside.
    """
    found = {"offending rows": table(columns, rows)} if rows else {}
    return dg.AssetCheckResult(
        passed=not count,
        description=f"{count:,} rows, the first: {', '.join(map(str, rows[0]))}" if rows else None,
        metadata={"problems": count} | found | metadata,
    )


def _count_rows(url: str) -> int:
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        return int(pq.read_metadata(stream).num_rows)
