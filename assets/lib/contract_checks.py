"""Blocking checks of crawl batches, most of them generated from the data contract.

Each is a `BatchCheck`: Dagster runs it after a materialisation, and publishing runs it again on
everything it is about to publish, because a blocking check stops only its own run.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pyarrow as pa

from assets.lib.partitions import batches_to_check
from assets.lib.report import table
from assets.lib.settings import Settings
from pipelines import ledger, schemas
from pipelines.contract import contract_problems, ledger_problems
from pipelines.layout import Layout
from pipelines.row_rules import offending_rows

# Enough to see what is wrong, little enough for the event log.
_OFFENDERS_SHOWN = 50
_OFFENCE = {"file": "string", "row": "int", "uid": "string", "problem": "string"}


@dataclass(frozen=True)
class BatchCheck:
    """What every finished batch of a dataset must keep.

    Attributes:
        dataset: the partitioned dataset, and the key of its asset.
        name: of the check.
        description: what is true if it passes.
        find: of settings and a batch, what breaks it; values in the order of `columns`.
        columns: of the table that names the offending rows, name to type; where there are none,
            what `find` gives are sentences about the whole batch.
    """

    dataset: str
    name: str
    description: str
    find: Callable[[Settings, str], Iterable[Sequence[Any]]]
    columns: Mapping[str, str] = field(default_factory=dict)

    def problem(self, settings: Settings, batch: str) -> str | None:
        """The first thing that breaks it, in words."""
        first = next(iter(self.find(settings, batch)), None)
        return None if first is None else ", ".join(map(str, first))

    def asset_check(self) -> dg.AssetChecksDefinition:
        """The blocking check of the dataset's asset, on the run's crawl batch."""

        @dg.asset_check(
            asset=dg.AssetKey(self.dataset),
            name=self.name,
            description=self.description,
            blocking=True,
        )
        def check(
            context: dg.AssetCheckExecutionContext, settings: Settings
        ) -> dg.AssetCheckResult:
            batches = batches_to_check(context, settings.layout, self.dataset)
            found = ((b, *offence) for b in batches for offence in self.find(settings, b))
            if not self.columns:
                problems = [f"{batch}: {problem}" for batch, problem in found]
                return result(problems, batches=list(batches))
            shown = list(itertools.islice(found, _OFFENDERS_SHOWN))
            more = sum(1 for _ in found)
            columns = {"batch": "string", **self.columns}
            return row_result(columns, shown, len(shown) + more, batches=list(batches))

        return check


def contract_check(dataset: str, schema: Callable[[Settings], pa.Schema]) -> BatchCheck:
    """The check of one partitioned Parquet dataset against the contract."""

    def find(settings: Settings, batch: str) -> list[tuple[str]]:
        directory = settings.layout.dataset(dataset, batch)
        return [(problem,) for problem in contract_problems(directory, schema(settings))]

    text = f"every file of {dataset} has exactly the contract's columns and the marker's rows"
    return BatchCheck(dataset, f"{dataset}_contract", text, find)


def ledger_check(
    dataset: str,
    stage: schemas.Stage | None,
    rows_in: Callable[[Layout, str], int | None] = lambda _layout, _batch: None,
) -> BatchCheck:
    """The check that in = kept + dropped by reason for one partitioned dataset."""

    def find(settings: Settings, batch: str) -> list[tuple[str]]:
        layout = settings.layout
        directory = layout.dataset(dataset, batch)
        rejects = None if stage is None else layout.rejects(stage, batch)
        return [(p,) for p in ledger_problems(directory, rejects, rows_in(layout, batch))]

    text = "rows in = rows kept + rows dropped by reason, and every dropped row is in rejects"
    return BatchCheck(dataset, f"{dataset}_ledger", text, find)


def rows_check(dataset: str) -> BatchCheck:
    """The check of the values in one partitioned dataset, row by row."""

    def find(settings: Settings, batch: str) -> Iterable[Sequence[Any]]:
        return offending_rows(settings.layout.dataset(dataset, batch), dataset)

    text = "no row is there twice, and every value is possible; the table names the rows"
    return BatchCheck(dataset, f"{dataset}_rows", text, find, _OFFENCE)


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
    columns: Mapping[str, str], rows: Sequence[Sequence[Any]], count: int, **metadata: Any
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
