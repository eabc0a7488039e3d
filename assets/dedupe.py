"""dedupe: no near-duplicates of the reference images, no repeats inside the crawl."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.curate import curated_pairs
from assets.lib import exhibits, report
from assets.lib.contract_checks import (
    BatchCheck,
    contract_check,
    kept_in,
    ledger_check,
    result,
    rows_check,
)
from assets.lib.partitions import crawl_batches, registered_batch
from assets.lib.settings import Settings
from pipelines import code_versions, ledger, schemas
from pipelines.contract import contract_problems
from pipelines.layout import Layout, join

if TYPE_CHECKING:
    from pipelines.dedupe.references import ReferenceSource
    from pipelines.dedupe.verify import Searches

GROUP = "dedupe"
_PAIRS_LOOKED_AT = 5000
_COPIES_SHOWN = 32
_REPEATS_SHOWN = 16
_SHEET_BYTES = 45_000
_POLL_SECONDS = 2.0
# A line for each of perhaps thousands.
_NOT_SHOWN = ("earlier_batches",)


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "parquet"},
    owners=["team:data"],
    code_version=code_versions.REFERENCE_INDEX,
    metadata=report.definition_metadata(schemas.COCO_HASH_INDEX),
)
def coco_hash_index(settings: Settings) -> dg.MaterializeResult:
    """Hashes of the reference images (MS-COCO, or its stand-in), and their measured recall.

    Materialise again after images were added or removed: only what changed is hashed.
    """
    from pipelines.dedupe.measure import DIRECTORY, PLOT_FILE, read_measured
    from pipelines.dedupe.reference_index import build_index

    stages, layout = settings.stages(), settings.layout
    source = _reference_source(settings)
    finished = build_index(source, layout, stages.dedupe, stages.engine)
    directory = layout.dataset(finished.dataset)
    recalled, flagged = read_measured(directory)
    shown = {
        "recall": _shares("attack", recalled),
        "false flags": _shares("against", flagged),
        **exhibits.pictures({"recall by attack": join(directory, DIRECTORY, PLOT_FILE)}),
    }
    return report.materialized(finished, directory, shown, leave_out=("files", "measured"))


@dg.asset(
    group_name=GROUP,
    kinds={"beam", "parquet"},
    owners=["team:data"],
    partitions_def=crawl_batches,
    deps=[curated_pairs, coco_hash_index],
    code_version=code_versions.DEDUPE,
    metadata=report.definition_metadata(schemas.DEDUPED_PAIRS),
)
def deduped_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """Pairs without near-duplicates of the reference images, and without repeats.

    A picture that a batch registered earlier has kept is a repeat here, so a run of one that has
    begun is waited for.
    """
    from pipelines.dedupe.transform import dedupe_pairs, searched_batches

    batch, stages = registered_batch(context, settings), settings.stages()
    layout, before = settings.layout, _before(settings, batch)
    _wait_for(context, before, layout)
    finished = dedupe_pairs(batch, layout, stages.dedupe, stages.engine, before)
    directory = layout.dataset(finished.dataset, batch)
    shown = {
        **exhibits.dataset_sheet(directory),
        **_caught(layout, batch),
        "earlier batches searched": len(searched_batches(finished)),
    }
    rejects = layout.rejects(schemas.Stage.DEDUPE, batch)
    examples = exhibits.reject_examples(finished, rejects)
    return report.materialized(finished, directory, shown, examples, leave_out=_NOT_SHOWN)


def _wait_for(context: dg.AssetExecutionContext, batches: Sequence[str], layout: Layout) -> None:
    """Wait for runs that are to finish one of `batches`; what waits in the queue does not count.

    A run waits for those of earlier batches alone, so no two wait for each other.
    """
    told = set[str]()
    while names := _under_way(context.instance, batches, layout):
        if names != told:
            context.log.info("waiting for batches registered earlier: %s", ", ".join(sorted(names)))
            told = names
        time.sleep(_POLL_SECONDS)


def _under_way(instance: dg.DagsterInstance, batches: Sequence[str], layout: Layout) -> set[str]:
    begun = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
    partitions = {run.tags.get("dagster/partition") for run in instance.get_runs(begun)}
    return {
        name
        for name in partitions.intersection(batches)
        if name and ledger.read_success(layout.dataset("deduped_pairs", name)) is None
    }


def _before(settings: Settings, batch: str) -> list[str]:
    """Names of the batches registered before, the earliest first."""
    from pipelines.crawl.batches import batches_before, read_batch

    layout = settings.layout
    return [before.name for before in batches_before(read_batch(batch, layout), layout)]


def _reference_source(settings: Settings) -> "ReferenceSource":
    """The reference images, and how they may be asked for where they are a list of URLs."""
    from pipelines.crawl.config import HttpConfig
    from pipelines.dedupe.references import ReferenceSource

    crawl = settings.crawl
    http = HttpConfig(crawl.contact, agent=crawl.agent) if crawl.contact else None
    return ReferenceSource(settings.reference_images, http=http)


def _shares(name: str, rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    columns = {name: "string", "tried": "int", "caught": "int", "share": "string"}
    columns |= {"95 % interval": "string", "by 64 bits alone": "int"}
    return report.table(
        columns,
        [
            (
                row[name],
                row["tried"],
                row["caught"],
                "-" if row["share"] is None else f"{row['share']:.2%}",
                f"{row['low_95']:.2%} to {row['high_95']:.2%}",
                row["plain_caught"],
            )
            for row in rows
        ],
    )


def _caught(layout: Layout, batch: str) -> dict[str, dg.MarkdownMetadataValue]:
    """Sheets of reference copies and of repeats, each beside what it copies, with its distance."""
    sheets = {
        "caught": exhibits.reference_copies(layout, batch, _COPIES_SHOWN),
        "repeats": exhibits.repeats(layout, batch, _REPEATS_SHOWN),
    }
    return {
        name: exhibits.inline(name, exhibits.side_by_side(pairs), _SHEET_BYTES)
        for name, pairs in sheets.items()
        if pairs
    }


@dg.asset_check(asset=coco_hash_index, name="coco_hash_index_contract", blocking=True)
def index_keeps_the_contract(settings: Settings) -> dg.AssetCheckResult:
    """Every file of the index has exactly the contract's columns and the marker's rows."""
    return result(index_problems(settings))


def index_problems(settings: Settings) -> list[str]:
    """What in the reference index breaks the contract."""
    directory = settings.layout.dataset("coco_hash_index")
    return contract_problems(directory, schemas.COCO_HASH_INDEX)


def _reference_copies(settings: Settings, batch: str) -> list[tuple[str, str, int]]:
    """A second search, which shares no code with the one that made the batch."""
    from pipelines.dedupe.verify import verify_no_reference_copies

    config = settings.stages().dedupe
    found = verify_no_reference_copies(settings.layout, batch, config, _PAIRS_LOOKED_AT)
    return [(copy.uid, copy.match.reference, copy.match.distance) for copy in found]


def searches(layout: Layout) -> "Searches":
    """With which batches those of a data root were searched."""
    from pipelines.crawl.batches import batches_in_order
    from pipelines.dedupe.verify import Searches

    return Searches(layout, [batch.name for batch in batches_in_order(layout)])


def order_check(opened: Callable[[Layout], "Searches"] = searches) -> BatchCheck:
    """The check that no earlier batch was left out of the search for repeats.

    Args:
        opened: gives the searches of a data root; the same ones for many batches read once what
            each holds.
    """

    def find(settings: Settings, batch: str) -> list[tuple[str]]:
        return [
            (
                f"{name} was registered earlier and is finished now, but not among what {batch} "
                "was searched with, so that both may keep a picture: launch deduped_pairs of "
                f"{batch} again, and what follows it",
            )
            for name in opened(settings.layout).missing(batch)
        ]

    text = (
        "every batch that was registered earlier and is finished by now was searched for repeats "
        "of its pictures as it is, so that the order of the runs does not matter"
    )
    return BatchCheck("deduped_pairs", "earlier_batches_searched", text, find)


BATCH_CHECKS = [
    contract_check("deduped_pairs", lambda _settings: schemas.DEDUPED_PAIRS),
    ledger_check("deduped_pairs", schemas.Stage.DEDUPE, kept_in("curated_pairs")),
    rows_check("deduped_pairs"),
    BatchCheck(
        "deduped_pairs",
        "no_reference_copy_remains",
        f"no kept pair is a near-duplicate of a reference image; {_PAIRS_LOOKED_AT} pairs of the "
        "batch are compared with every reference by brute force",
        _reference_copies,
        {"uid": "string", "reference": "string", "bits of 256": "int"},
    ),
]
CHECKS = [
    index_keeps_the_contract,
    *(check.asset_check() for check in (*BATCH_CHECKS, order_check())),
]
ASSETS = [coco_hash_index, deduped_pairs]
