"""The inbox: files that appear in a folder or bucket become crawl batches, and runs of them.

A new file waits in the cursor for one tick. Its batches' JSON files are then written first; Dagster
adds the partitions and queues the runs after the tick, and keeps the new cursor last. A tick that
is killed anywhere is therefore done again from the cursor before it, which still names the file:
JSON and partitions come out the same, and the run key (the batch's name) keeps a run from being
queued twice.
"""

import json
import time
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field

import dagster as dg

from assets.automation import collect_pairs
from assets.lib.partitions import PARTITIONS, crawl_batches
from assets.lib.settings import CrawlSettings, Settings
from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, ListFormat, SourceKind, read_batch, write_batch
from pipelines.layout import Layout

_INTERVAL_SECONDS = 10
# The daemon gives a tick a minute. A list of text is read once to be cut, about 100 MB/s of it
# after decompression.
_TICK_SECONDS = 10.0
_MOST_TEXT_BYTES = 1_000_000_000
_FILES_A_TICK = 5
_FILES_REMEMBERED = 500


@dataclass(frozen=True)
class Memory:
    """The sensor's cursor.

    Attributes:
        waiting: source and stamp of files that the last tick saw for the first time, by path.
        refused: stamp of files that could not be cut into batches, by path.
    """

    waiting: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cursor: str | None) -> "Memory":
        """What `cursor` holds; nothing where there is none."""
        return cls(**json.loads(cursor)) if cursor else cls()

    @property
    def cursor(self) -> str:
        """The text to keep."""
        return json.dumps(asdict(self), sort_keys=True)


@dg.sensor(
    name="crawl_inbox",
    job=collect_pairs,
    minimum_interval_seconds=_INTERVAL_SECONDS,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if CrawlSettings.from_environment().inbox
        else dg.DefaultSensorStatus.STOPPED
    ),
    description=(
        "Cuts each new list, WARC or WAT file in DALLE_CRAWL_INBOX into crawl batches and queues "
        "collect_pairs for them; a sub-folder's name becomes the source's."
    ),
)
def crawl_inbox(
    context: dg.SensorEvaluationContext, settings: Settings
) -> dg.SensorResult | dg.SkipReason:
    """One look into the inbox."""
    inbox = settings.crawl.inbox
    if not inbox:
        return dg.SkipReason(
            "DALLE_CRAWL_INBOX is not set: set it to a folder or bucket for new lists, WARC and "
            "WAT files, and start `make up` again"
        )
    memory = Memory.of(context.cursor)
    known = set(context.instance.get_dynamic_partitions(PARTITIONS))
    try:
        if not storage.exists(inbox):
            return dg.SkipReason(
                f"there is no {inbox}: make it, or correct DALLE_CRAWL_INBOX and start again"
            )
        files = _files(inbox, known, memory)
    except OSError as error:
        return dg.SkipReason(f"cannot look into the inbox {inbox}: {error}")
    batches: list[CrawlBatch] = []
    done: set[str] = set()
    refused = {path: memory.refused[path] for path in files if path in memory.refused}
    ripe = [
        path
        for path, (source, stamp) in files.items()
        if memory.waiting.get(path) == [source, stamp]
    ]
    started = time.monotonic()
    for path in ripe[:_FILES_A_TICK]:
        source, stamp = files[path]
        try:
            batches += _written(path, source, settings.layout)
            done.add(path)
        # One file must not stop the others, whatever is wrong with it.
        except Exception as error:
            refused[path] = stamp
            context.log.warning("%s is left alone: %s", path, error)
        if time.monotonic() - started > _TICK_SECONDS:
            break
    waiting = {
        path: [source, stamp]
        for path, (source, stamp) in files.items()
        if path not in done and refused.get(path) != stamp
    }
    cursor = Memory(waiting, refused).cursor
    if not batches:
        told = f"no new file in {inbox} ({len(waiting)} waiting, {len(refused)} refused)"
        return dg.SensorResult(skip_reason=told, cursor=cursor)
    names = [batch.name for batch in batches]
    return dg.SensorResult(
        dynamic_partitions_requests=[crawl_batches.build_add_request(names)],
        run_requests=[dg.RunRequest(run_key=name, partition_key=name) for name in names],
        cursor=cursor,
    )


def _files(inbox: str, known: AbstractSet[str], memory: Memory) -> dict[str, tuple[str, str]]:
    """Source and stamp of the files to look at, by path.

    Raises:
        OSError: if the inbox cannot be listed.
    """
    from pipelines.crawl.planning import new_files

    found = {file.path: file.source for file in new_files(inbox, known)}
    # One that waits may have its partitions already, if the tick that added them was killed.
    found |= {p: source for p, (source, _) in memory.waiting.items() if storage.exists(p)}
    chosen = sorted(found, key=lambda path: (path in memory.refused, path))[:_FILES_REMEMBERED]
    return {path: (found[path], str(storage.stamp(path))) for path in chosen}


def _written(path: str, source: str, layout: Layout) -> list[CrawlBatch]:
    """The batches of a file, their JSON files written.

    Raises:
        ValueError: if the file is no list and no archive, or somebody else's batch has the name.
        OSError: if it cannot be read.
    """
    from pipelines.crawl.planning import plan_batches
    from pipelines.crawl.sources.recognise import source_of

    size, _ = storage.stamp(path)
    found = source_of(path, source)
    text = found.kind is SourceKind.URL_LIST and found.format is not ListFormat.PARQUET
    if text and (size or 0) > _MOST_TEXT_BYTES:
        raise ValueError(
            f"{size:,} bytes of text take longer to cut than a tick may; cut it by hand: "
            f"python -m assets.batches add NAME {path}"
        )
    batches = plan_batches(path, source)
    there = {b.name for b in batches if storage.exists(layout.crawl_batch(b.name))}
    for batch in batches:
        if batch.name in there and read_batch(batch.name, layout).sources != batch.sources:
            raise ValueError(
                f"the crawl batch {batch.name!r} has other sources already; rename the file"
            )
    for batch in batches:
        if batch.name not in there:
            write_batch(batch, layout)
    return batches
