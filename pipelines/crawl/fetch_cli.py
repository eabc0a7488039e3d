"""The command `python -m pipelines.crawl.fetch`."""

import logging
import sys
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from pipelines import commands, storage
from pipelines.crawl import fetch, progress
from pipelines.crawl.config import FetchConfig, HttpConfig
from pipelines.crawl.fetch_inputs import (
    Inputs,
    count_urls,
    is_on_this_machine,
    open_inputs,
    private_rows,
)
from pipelines.crawl.http.outcomes import Outcome, printable
from pipelines.layout import join
from pipelines.ledger import Finished

_REJECTS = "_rejects"
_PREPARED = "_candidates"
_LOOPBACK_CONTACT = "operator@localhost"
_EXAMPLE_WIDTH = 100


def fetch_command(
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="CANDIDATES",
            help="Directory of image_text_candidates, or Parquet files with a URL and a caption.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory or fsspec URL of the dataset.")
    ],
    contact: Annotated[
        str, typer.Option(help="E-mail or URL for site owners; needed off this machine.")
    ] = "",
    agent: Annotated[str, typer.Option(help="Our product token, for robots.txt.")] = "dalle-graph",
    allow_network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Network to fetch from although it is not public."),
    ] = None,
    port: Annotated[
        list[int] | None, typer.Option(help="TCP port to connect to; 80 and 443 unless said.")
    ] = None,
    takedown: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="URLs, domains and SHA-256 that are not fetched or kept."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Connections at once a process.")] = 32,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    deadline: Annotated[float, typer.Option(help="Limit of one exchange, in seconds.")] = 10.0,
    max_bytes: Annotated[int, typer.Option(help="Limit of an image, in bytes.")] = 20_000_000,
    retries: Annotated[int, typer.Option(help="Further tries in this run.")] = 1,
    domain_delay: Annotated[
        float, typer.Option(help="Seconds between requests to one registrable domain.")
    ] = 0.25,
    domain_connections: Annotated[
        int, typer.Option(help="Connections to one registrable domain at once.")
    ] = 4,
    url_column: Annotated[
        str | None, typer.Option(help="Column of the URL in other Parquet files.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column of the caption in other Parquet files.")
    ] = None,
    rows_per_part: Annotated[
        int, typer.Option(min=1, help="Pairs in one file, of other Parquet files.")
    ] = 2000,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Fetch the images of candidates, each URL once, and say what became of each.

    Writes fetched_pairs as Parquet into DIR, the rows without an image also into DIR/_rejects, and
    prints the rows by outcome. The same command again goes on where a killed one stopped, to the
    URL; after a finished one it tries only what may have passed, such as timeouts.

    \b
    python -m pipelines.crawl.fetch candidates --output pairs --contact crawl@example.org
    python -m pipelines.crawl.fetch laion/*.parquet --output pairs --contact you@example.org \\
      --concurrency 256 --processes 8 --takedown takedown.txt
    python -m pipelines.crawl.fetch candidates --output pairs --allow-network 127.0.0.0/8

    While it runs, its outcomes can be counted:

    \b
    sqlite3 -readonly DIR/_work/part-00000.sqlite 'SELECT outcome, count(*) FROM urls GROUP BY 1'
    """
    logging.getLogger("pipelines").setLevel(logging.WARNING)
    if takedown is not None and not storage.exists(takedown):
        raise FileNotFoundError(f"{takedown}, the takedown list, is not there")
    options: dict[str, Any] = {"ports": tuple(port)} if port else {}
    http = HttpConfig(
        contact=contact or _LOOPBACK_CONTACT,
        agent=agent,
        deadline_s=deadline,
        max_bytes=max_bytes,
        retries=retries,
        allow_networks=tuple(allow_network or ()),
        domain_connections=domain_connections,
        domain_delay_s=domain_delay,
        processes=processes,
        **options,
    )
    config = FetchConfig(http=http, concurrency=concurrency, takedown=takedown)
    engine = commands.engine(processes)
    columns = (url_column, caption_column)
    inputs = open_inputs(candidates, join(output, _PREPARED), columns, rows_per_part, engine)
    if not contact and not is_on_this_machine(inputs.parts):
        raise ValueError("fetching off the web needs --contact, whom site owners can write to")
    _describe(inputs)
    with _watching(output, inputs, quiet):
        finished = fetch.fetch_parts(
            inputs.parts, inputs.content, output, join(output, _REJECTS), config, engine
        )
    _print_table(output, finished)
    _print_hint(output, http.allow_networks)


def main() -> None:
    """Run the command and exit."""
    commands.run(fetch_command)


def _describe(inputs: Inputs) -> None:
    if inputs.funnel is not None:
        print("candidates in the Parquet files:")
        print("\n".join(commands.funnel_lines(inputs.funnel)))
    if not inputs.finished:
        print(
            "note: these candidates have no _SUCCESS marker: if their stage is still running, run "
            "this command again when it has ended",
            file=sys.stderr,
        )


def _watching(output: str, inputs: Inputs, quiet: bool) -> Any:
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    return progress.watch(output, count_urls(inputs.parts))


def _print_table(output: str, finished: Finished) -> None:
    print(f"{'outcome':20} {'rows':>12} {'share':>7} {'retryable':>12}  example")
    for row in fetch.outcome_table(output):
        share = row["rows"] / max(finished.rows, 1)
        example = printable((row["example"] or "")[:_EXAMPLE_WIDTH])
        print(
            f"{row['outcome']:20} {row['rows']:12,} {share:7.1%} {row['retryable']:12,}  {example}"
        )
    figures = finished.details
    rate = figures["images_per_second"]
    speed = f", {rate:,} images/s" if rate else ""
    size = figures["image_bytes"] / 1e6
    print(f"{figures['images']:,} images ({size:,.1f} MB) of {figures['urls']:,} URLs{speed}")
    print(f"{finished.rows:,} rows in {output}")


def _print_hint(output: str, allow_networks: tuple[str, ...]) -> None:
    if all(row["outcome"] != Outcome.UNSAFE_ADDRESS for row in fetch.outcome_table(output)):
        return
    rows, address = private_rows(storage.list_files(output, ".parquet"), allow_networks)
    if rows:
        print(
            f"note: {rows:,} rows are at addresses that are not public, such as {address}; if you "
            f"mean to fetch from there, add --allow-network {address}",
            file=sys.stderr,
        )
