"""The funnel of one batch over all stages, from the success markers."""

from itertools import pairwise
from typing import NamedTuple

from pipelines import ledger
from pipelines.layout import Layout
from pipelines.ledger import Funnel, LedgerError
from pipelines.schemas import Stage

# In the order of the data flow; the rows that one keeps are the rows that the next one reads.
FLOW = (
    (Stage.CRAWL, "image_text_candidates"),
    (Stage.CRAWL, "fetched_pairs"),
    (Stage.CURATE, "curated_pairs"),
    (Stage.DEDUPE, "deduped_pairs"),
    (Stage.ENCODE, "token_grids"),
)


class Step(NamedTuple):
    """One dataset of the flow, and what became of the rows that came in."""

    stage: Stage
    dataset: str
    funnel: Funnel


def funnel(layout: Layout, batch: str) -> list[Step]:
    """Steps of a batch in flow order, up to the first that is not finished.

    Raises:
        LedgerError: if a step did not read exactly the rows that the step before it kept.
    """
    steps: list[Step] = []
    for stage, dataset in FLOW:
        done = ledger.read_success(layout.dataset(dataset, batch))
        if done is None:
            break
        done.funnel.check(f"{dataset}, batch {batch}")
        steps.append(Step(stage, dataset, done.funnel))
    for before, after in pairwise(steps):
        if before.funnel.kept != after.funnel.rows_in:
            raise LedgerError(
                f"batch {batch}: {before.dataset} kept {before.funnel.kept} rows, but "
                f"{after.dataset} read {after.funnel.rows_in}; materialise {after.dataset} again"
            )
    return steps
