"""Crawl batches: `python -m assets.batches add NAME SOURCE...`, `launch NAME [JOB]`, `list`.

A SOURCE is a URL list (.csv, .tsv, .jsonl, .parquet, also compressed), a sitemap (an http(s) URL
that ends in .xml or .xml.gz), any other http(s) URL (a page), or `BASE_URL=DIRECTORY` for pages
saved on disk. `add` writes the batch's JSON file below the data root and makes its name a
partition in Dagster; `launch` queues a job for it, which the daemon (`make up`) then runs.
"""

import argparse
import sys
from collections.abc import Sequence

import dagster as dg

from assets.lib import runs
from assets.lib.home import UserError, dagster_home
from assets.lib.partitions import PARTITIONS
from assets.lib.settings import Settings
from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.layout import Layout

_WEB = ("http://", "https://")


def parse_source(text: str, index: int) -> Source:
    """One word of the command line as a source.

    Raises:
        UserError: if it names nothing that can be read.
    """
    name = f"source-{index}"
    base, equals, directory = text.partition("=")
    if text.startswith(_WEB) and equals and storage.exists(directory):
        return Source(name, SourceKind.HTML_FILES, (directory,), base_url=base)
    if text.startswith(_WEB) and text.endswith((".xml", ".xml.gz")):
        return Source(name, SourceKind.SITEMAP, (text,))
    if text.startswith(_WEB):
        return Source(name, SourceKind.WEB_PAGES, (text,))
    if not storage.exists(text):
        raise UserError(f"cannot read the URL list {text!r}; check the path")
    return Source(name, SourceKind.URL_LIST, (text,))


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
    sources = tuple(parse_source(text, i) for i, text in enumerate(arguments.source))
    batch = CrawlBatch(arguments.name, sources)
    register(batch, Settings.from_environment().layout, instance)
    return f"batch {batch.name} is registered; next: python -m assets.batches launch {batch.name}"


def _launch(arguments: argparse.Namespace, instance: dg.DagsterInstance) -> str:
    known = instance.get_dynamic_partitions(PARTITIONS)
    if arguments.name not in known:
        raise UserError(
            f"there is no crawl batch {arguments.name!r} (registered: "
            f"{', '.join(sorted(known)) or 'none'}); register it: "
            f"python -m assets.batches add {arguments.name} SOURCE..."
        )
    run_id = runs.launch(arguments.job, {"dagster/partition": arguments.name})
    return f"{arguments.job} of batch {arguments.name} is queued as run {run_id}"


def _list(_arguments: argparse.Namespace, instance: dg.DagsterInstance) -> str:
    return "\n".join(sorted(instance.get_dynamic_partitions(PARTITIONS)))


_COMMANDS = {"add": _add, "launch": _launch, "list": _list}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m assets.batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="register a batch")
    add.add_argument("name")
    add.add_argument("source", nargs="+")
    launch = commands.add_parser("launch", help="queue a job for a batch")
    launch.add_argument("name")
    launch.add_argument("job", nargs="?", default="collect_pairs")
    commands.add_parser("list", help="print the registered batches")
    return parser


if __name__ == "__main__":
    sys.exit(main())
