"""Crawl batches: the one partition dimension of the data side."""

import dagster as dg

from assets.lib.settings import Settings
from pipelines import ledger, storage
from pipelines.layout import Layout, join

PARTITIONS = "crawl_batch"
crawl_batches = dg.DynamicPartitionsDefinition(name=PARTITIONS)

_PARTITION_TAG = "dagster/partition"


def registered_batch(context: dg.AssetExecutionContext, settings: Settings) -> str:
    """The run's crawl batch.

    Raises:
        dg.Failure: if nobody registered it. A launch from the command line takes any key, so
            this is where a misspelt one is found.
    """
    batch = context.partition_key
    if storage.exists(settings.layout.crawl_batch(batch)):
        return batch
    known = ", ".join(sorted(context.instance.get_dynamic_partitions(PARTITIONS))) or "none"
    raise dg.Failure(
        description=f"There is no crawl batch {batch!r} (registered: {known}); register it with "
        f"`python -m assets.batches add {batch} SOURCE...`, or launch one of the registered.",
        allow_retries=False,
    )


def started_batches(layout: Layout, dataset: str) -> tuple[str, ...]:
    """Batches of which there is a part of `dataset`, finished or not, in the order of names."""
    names = (url.rsplit("/", 1)[1] for url in storage.list_files(layout.dataset(dataset)))
    return tuple(n.removeprefix("batch=") for n in names if n.startswith("batch="))


def finished_batches(layout: Layout, dataset: str) -> tuple[str, ...]:
    """Batches whose part of `dataset` is finished, in the order of their names."""
    started = started_batches(layout, dataset)
    return tuple(b for b in started if storage.exists(_marker(layout, dataset, b)))


def all_finished_batches(layout: Layout, dataset: str) -> tuple[str, ...]:
    """As `finished_batches`, for a stage that needs at least one.

    Raises:
        dg.Failure: if there is none.
    """
    batches = finished_batches(layout, dataset)
    if not batches:
        raise dg.Failure(
            description=f"No batch of {dataset} is finished under {layout.root}; "
            "launch the job collect_pairs for a crawl batch first.",
            allow_retries=False,
        )
    return batches


def batches_to_check(
    context: dg.AssetCheckExecutionContext, layout: Layout, dataset: str
) -> tuple[str, ...]:
    """The run's own batch; a check that is run by itself looks at every finished one."""
    batch = context.run.tags.get(_PARTITION_TAG)
    return (batch,) if batch else finished_batches(layout, dataset)


def _marker(layout: Layout, dataset: str, batch: str) -> str:
    return join(layout.dataset(dataset, batch), ledger.SUCCESS)
