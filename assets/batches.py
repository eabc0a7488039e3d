"""Crawl batches: `python -m assets.batches add NAME SOURCE...`, `launch NAME [JOB]`, `list`.

A SOURCE is a URL list (CSV, TSV, JSON lines, Parquet, YFCC100M metadata, also compressed), a WARC
or WAT file, a folder or glob of these, a page or sitemap (an http(s) URL), or `BASE_URL=DIRECTORY`
for pages saved on disk; files are recognised by their content. `add` writes the batch's JSON file
below the data root and makes its name a partition in Dagster; a long list becomes several batches,
NAME-0000, NAME-0001 ... `launch` queues a job for a batch, or for all that a pattern like 'NAME-*'
names, which the daemon (`make up`) then runs.
"""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets import automation
from assets.lib import batch_plan, runs
from assets.lib.home import UserError, dagster_home
from assets.lib.partitions import PARTITIONS, finished_batches
from assets.lib.settings import Settings
from assets.lib.stages import crawl_configs
from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, ListFormat, read_batch, write_batch
from pipelines.layout import Layout

PAIRS_PER_BATCH = 100_000
_JOBS = [job.name for job in automation.JOBS if job.partitions_def is not None]
_STAGES = {
    "candidates": "image_text_candidates",
    "fetched": "fetched_pairs",
    "curated": "curated_pairs",
    "deduped": "deduped_pairs",
    "tokens": "token_grids",
}


def register(batch: CrawlBatch, layout: Layout, instance: dg.DagsterInstance) -> None:
    """Write the batch's file, then make its name a partition."""
    write_batch(batch, layout)
    instance.add_dynamic_partitions(PARTITIONS, [batch.name])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 and one sentence if something is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        dagster_home()
        with dg.DagsterInstance.get() as instance:
            print(_COMMANDS[arguments.command](arguments, instance))
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _add(arguments: argparse.Namespace, instance: dg.DagsterInstance) -> str:
    pairs, name = arguments.pairs_per_batch, arguments.name
    found = batch_plan.recognise(
        arguments.source, pairs, arguments.name_source, _options(arguments)
    )
    batches = batch_plan.batches_of(name, found, pairs)
    layout = Settings.from_environment().layout
    replaced = [batch.name for batch in batches if _replaces(batch, layout)]
    for batch in batches:
        register(batch, layout, instance)
    one = len(batches) == 1
    told = name if one else f"'{name}-*'"
    counted = "1 batch" if one else f"{len(batches)} batches"
    return "\n".join(
        [
            *(item.text() for item in found),
            *(f"batch {name} had other sources, which these replace" for name in replaced),
            f"{counted} registered; next: python -m assets.batches launch {told}",
        ]
    )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("format", "columns", "url_column", "caption_column", "base_url", "snapshot")
    given = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in given.items() if value}


def _replaces(batch: CrawlBatch, layout: Layout) -> bool:
    """Whether there is a batch of that name with other sources, which nobody has crawled yet.

    Raises:
        UserError: if it was crawled: what was fetched under a name must not become something else.
    """
    if not storage.exists(layout.crawl_batch(batch.name)):
        return False
    if read_batch(batch.name, layout).sources == batch.sources:
        return False
    if storage.exists(layout.dataset("image_text_candidates", batch.name)):
        raise UserError(
            f"batch {batch.name!r} has other sources and was crawled already; choose another name"
        )
    return True


def _launch(arguments: argparse.Namespace, instance: dg.DagsterInstance) -> str:
    known = sorted(instance.get_dynamic_partitions(PARTITIONS))
    names = fnmatch.filter(known, arguments.name)
    if not names:
        raise UserError(
            f"there is no crawl batch {arguments.name!r} (registered: "
            f"{', '.join(known) or 'none'}); register it: "
            f"python -m assets.batches add {arguments.name} SOURCE..."
        )
    job = arguments.job
    if job not in _JOBS:
        raise UserError(f"there is no job {job!r} of batches; choose one of {', '.join(_JOBS)}")
    if job in automation.CRAWLING:
        settings = Settings.from_environment()
        for name in names:
            crawl_configs(read_batch(name, settings.layout), settings.crawl)
    queued = runs.launch_batches(instance, job, names)
    return "\n".join(
        f"{job} of batch {name} is queued as run {run_id}" for name, run_id in queued.items()
    )


def _list(_arguments: argparse.Namespace, instance: dg.DagsterInstance) -> str:
    """A line for each batch: name, time of registration, finished stages, sources."""
    layout = Settings.from_environment().layout
    finished = {stage: set(finished_batches(layout, name)) for stage, name in _STAGES.items()}
    lines = []
    for name in sorted(instance.get_dynamic_partitions(PARTITIONS)):
        done = " ".join(stage for stage, names in finished.items() if name in names)
        try:
            batch = read_batch(name, layout)
        except FileNotFoundError:
            lines.append(f"{name}  no sources below {layout.root}")
            continue
        at = batch.registered_at[:16].replace("T", " ")
        sources = ", ".join(source.name for source in batch.sources)
        lines.append(f"{name}  {at}  [{done or 'nothing finished'}]  {sources}")
    return "\n".join(lines) or "no batch is registered"


_COMMANDS = {"add": _add, "launch": _launch, "list": _list}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m assets.batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="register a batch")
    add.add_argument("name", help="letters, digits, '.', '_' and '-'")
    add.add_argument(
        "source", nargs="+", help="list, archive, folder, glob, http(s) URL, or BASE_URL=DIRECTORY"
    )
    _add_options(add)
    launch = commands.add_parser("launch", help="queue a job for a batch, or for a pattern of them")
    launch.add_argument("name", help="of a batch, or a pattern like 'NAME-*'")
    launch.add_argument("job", nargs="?", default="collect_pairs", help="default: %(default)s")
    commands.add_parser("list", help="print the registered batches and their finished stages")
    return parser


def _add_options(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "--format", type=ListFormat, choices=list(ListFormat), help="of lists; else recognised"
    )
    add.add_argument(
        "--columns", type=_names, help="names for a list without a header, e.g. caption,url"
    )
    add.add_argument("--url-column", help="column of the image's URL")
    add.add_argument("--caption-column", help="column of the caption")
    add.add_argument("--base-url", help="address that saved pages were saved from")
    add.add_argument("--snapshot", help="version of the list or crawl, written into every row")
    add.add_argument("--name-source", help="name of the sources, written into every row")
    add.add_argument(
        "--pairs-per-batch", type=_count, default=PAIRS_PER_BATCH, help="default: %(default)s"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
