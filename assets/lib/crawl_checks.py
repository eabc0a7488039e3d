"""Warnings about a crawl: they colour the asset's page, and stop nothing."""

import statistics
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.lib.crawl_page import success_share
from assets.lib.partitions import batches_to_check, started_batches
from assets.lib.settings import Settings
from pipelines import ledger
from pipelines.layout import Layout

# Of the usual share; lists rot slowly, so a fall by a fifth is most often ours: a blocked agent,
# a resolver or an uplink that gives up.
_FALL = 0.8
# Without other batches: public reports of LAION-like lists lie above, see docs/crawl_at_scale.md.
_LEAST = 0.5
_MOST_BROKEN = 0.05
_BROKEN = ("broken_row", "wrong_encoding", "no_url", "invalid_url")
# The newest by name; the median of so many tells what is usual.
_BATCHES_COMPARED = 50


def success_rate_check(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The warning that a batch of `fetched_pairs` brought fewer pictures than usual."""

    @dg.asset_check(
        asset=asset,
        name="fetched_pairs_success_rate",
        description="the share of pictures fetched is not under 0.8 of the other batches' median",
    )
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        layout = settings.layout
        name = asset.key.to_user_string()
        return _warning([success(layout, name, b) for b in batches_to_check(context, layout, name)])

    return check


def broken_rows_check(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The warning that many rows of a batch's sources could not be read."""

    @dg.asset_check(
        asset=asset,
        name="image_text_candidates_broken_rows",
        description="at most 5 % of the rows found are broken, wrongly encoded or without a URL",
    )
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        layout = settings.layout
        name = asset.key.to_user_string()
        return _warning(
            [broken_rows(layout, name, b) for b in batches_to_check(context, layout, name)]
        )

    return check


def success(layout: Layout, dataset: str, batch: str) -> dict[str, Any]:
    """Figures of one finished batch, and its `problem`, None if there is none."""
    finished = ledger.require_success(layout.dataset(dataset, batch))
    share = success_share(finished)
    others = [b for b in started_batches(layout, dataset) if b != batch][-_BATCHES_COMPARED:]
    markers = [ledger.read_success(layout.dataset(dataset, b)) for b in others]
    shares = [s for s in (success_share(m) for m in markers if m is not None) if s is not None]
    usual = statistics.median(shares) if shares else None
    least = _LEAST if usual is None else _FALL * usual
    failed = {r: n for r, n in finished.funnel.dropped.items() if r != "opted_out"}
    worst = max(failed, key=lambda reason: failed[reason], default=None)
    problem = None
    if share is not None and share < least:
        than = "no other batch to compare with" if usual is None else f"usual are {usual:.1%}"
        problem = f"{batch}: {share:.1%} of the pictures were fetched ({than}); most often {worst}"
    figures: dict[str, Any] = {"batch": batch, "batches compared": len(shares), "problem": problem}
    if share is not None:
        figures["success share"] = share
    if usual is not None:
        figures["usual success share"] = usual
    if worst is not None:
        figures["worst outcome"] = f"{worst}: {failed[worst]:,} of {finished.funnel.rows_in:,}"
    return figures


def broken_rows(layout: Layout, dataset: str, batch: str) -> dict[str, Any]:
    """As `success`, for the rows that could not be read."""
    funnel = ledger.require_success(layout.dataset(dataset, batch)).funnel
    broken = {reason: funnel.dropped[reason] for reason in _BROKEN if reason in funnel.dropped}
    share = sum(broken.values()) / max(1, funnel.rows_in)
    problem = None
    if share > _MOST_BROKEN:
        counts = ", ".join(f"{n:,} {reason}" for reason, n in broken.items())
        problem = (
            f"{batch}: {share:.1%} of {funnel.rows_in:,} rows could not be read ({counts}); "
            "look at the page's examples and set the source's format or columns"
        )
    return {"batch": batch, "broken share": share, "problem": problem}


def _warning(batches: Sequence[dict[str, Any]]) -> dg.AssetCheckResult:
    """One batch's figures as they are, of several the first problems."""
    problems = [b["problem"] for b in batches if b["problem"] is not None]
    one = batches[0] if len(batches) == 1 else {}
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(problems[:10]) or None,
        metadata={name: value for name, value in one.items() if name != "problem"}
        | {"problems": len(problems)},
    )
