"""Warnings about a crawl: they colour the asset's page, and stop nothing."""

from typing import Any

import dagster as dg

from assets.lib.crawl_page import success_share
from assets.lib.usual import usual, warning_check
from pipelines import ledger
from pipelines.layout import Layout

# Of the usual share; lists rot slowly, so a fall by a fifth is most often ours: a blocked agent,
# a resolver or an uplink that gives up.
_FALL = 0.8
# Without other batches: public reports of LAION-like lists lie above, see docs/crawl_at_scale.md.
_LEAST = 0.5
_MOST_BROKEN = 0.05
_BROKEN = (
    "broken_row",
    "wrong_encoding",
    "no_url",
    "invalid_url",
    "unreadable_file",
    "caption_too_long",
)


def success_rate_check(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The warning that a batch of `fetched_pairs` brought fewer pictures than usual."""
    text = "the share of pictures fetched is not under 0.8 of the other batches' median"
    return warning_check(asset, "fetched_pairs_success_rate", text, success)


def broken_rows_check(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The warning that many rows of a batch's sources could not be read."""
    text = "at most 5 % of the rows found are broken, wrongly encoded, unreadable or without a URL"
    return warning_check(asset, "image_text_candidates_broken_rows", text, broken_rows)


def success(layout: Layout, dataset: str, batch: str) -> dict[str, Any]:
    """Figures of one finished batch, and its `problem`, None if there is none."""
    finished = ledger.require_success(layout.dataset(dataset, batch))
    share = success_share(finished)
    median, compared = usual(layout, dataset, batch, success_share)
    least = _LEAST if median is None else _FALL * median
    failed = {r: n for r, n in finished.funnel.dropped.items() if r != "opted_out"}
    worst = max(failed, key=lambda reason: failed[reason], default=None)
    problem = None
    if share is not None and share < least:
        than = "no other batch to compare with" if median is None else f"usual are {median:.1%}"
        problem = f"{batch}: {share:.1%} of the pictures were fetched ({than}); most often {worst}"
    figures: dict[str, Any] = {"batch": batch, "batches compared": compared, "problem": problem}
    if share is not None:
        figures["success share"] = share
    if median is not None:
        figures["usual success share"] = median
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
