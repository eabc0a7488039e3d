"""What is usual among batches, and warnings about one that differs: they stop nothing."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from assets.lib.partitions import batches_to_check, started_batches
from assets.lib.settings import Settings
from pipelines import ledger
from pipelines.layout import Layout
from pipelines.ledger import Finished

# The newest by name; the median of so many tells what is usual.
_BATCHES_COMPARED = 50


def usual(
    layout: Layout, dataset: str, batch: str, share: Callable[[Finished], float | None]
) -> tuple[float | None, int]:
    """The median share of the other finished batches, None if there is none, and their number.

    Args:
        layout: of the data root.
        dataset: name of the dataset.
        batch: left out.
        share: of a finished batch; None where it has none, which leaves the batch out.
    """
    others = [b for b in started_batches(layout, dataset) if b != batch][-_BATCHES_COMPARED:]
    markers = [ledger.read_success(layout.dataset(dataset, b)) for b in others]
    shares = [s for s in (share(m) for m in markers if m is not None) if s is not None]
    return (statistics.median(shares) if shares else None), len(shares)


def warning_check(
    asset: dg.AssetsDefinition,
    name: str,
    description: str,
    figures: Callable[[Layout, str, str], dict[str, Any]],
) -> dg.AssetChecksDefinition:
    """A check that warns where `figures(layout, dataset, batch)` of the run's batch say so."""

    @dg.asset_check(asset=asset, name=name, description=description)
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        layout = settings.layout
        dataset = asset.key.to_user_string()
        batches = batches_to_check(context, layout, dataset)
        return warning([figures(layout, dataset, batch) for batch in batches])

    return check


def warning(batches: Sequence[dict[str, Any]]) -> dg.AssetCheckResult:
    """A check's result from the figures of batches, each with its `problem` or None.

    One batch's figures are shown as they are, of several the first problems.
    """
    problems = [b["problem"] for b in batches if b["problem"] is not None]
    one = batches[0] if len(batches) == 1 else {}
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(problems[:10]) or None,
        metadata={name: value for name, value in one.items() if name != "problem"}
        | {"problems": len(problems)},
    )
