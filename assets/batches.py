"""Register crawl batches: `python -m assets.batches add NAME SOURCE...`

A SOURCE is a URL list (.csv, .tsv, .jsonl, .parquet, also compressed), a sitemap (an http(s) URL
that ends in .xml or .xml.gz), any other http(s) URL (a page), or `BASE_URL=DIRECTORY` for pages
saved on disk. The batch's JSON file is written below the data root, and its name becomes a
partition in Dagster.
"""

import argparse
import sys
from collections.abc import Sequence

import dagster as dg

from assets.lib.home import UserError, dagster_home
from assets.lib.partitions import crawl_batches
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
    instance.add_dynamic_partitions(crawl_batches.name or "", [batch.name])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m assets.batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="register a batch")
    add.add_argument("name")
    add.add_argument("source", nargs="+")
    commands.add_parser("list", help="print the registered batches")
    arguments = parser.parse_args(argv)
    try:
        dagster_home()
        with dg.DagsterInstance.get() as instance:
            if arguments.command == "list":
                print("\n".join(sorted(instance.get_dynamic_partitions("crawl_batch"))))
                return 0
            sources = tuple(parse_source(text, i) for i, text in enumerate(arguments.source))
            batch = CrawlBatch(arguments.name, sources)
            register(batch, Settings.from_environment().layout, instance)
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"Batch {batch.name} is registered. With the daemon running (make up), launch it:\n"
        f"  dagster job launch -w workspace.yaml -j collect_pairs "
        f'--tags \'{{"dagster/partition": "{batch.name}"}}\''
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
