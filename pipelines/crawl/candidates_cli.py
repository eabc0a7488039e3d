"""The command `python -m pipelines.crawl.candidates`."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from pipelines import commands, ledger, storage
from pipelines.crawl.batches import CrawlBatch, ListFormat, Source, SourceKind, merged
from pipelines.crawl.candidates import write_candidates
from pipelines.crawl.config import CandidatesConfig, HttpConfig
from pipelines.crawl.http.outcomes import printable
from pipelines.crawl.planning import source_name
from pipelines.crawl.sources.recognise import source_of
from pipelines.crawl.sources.url_lists import ListError
from pipelines.layout import join

_WEB = ("http://", "https://")
_REJECTS = "_rejects"
_LOOPBACK_CONTACT = "operator@localhost"


def extract(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="URL lists (CSV, TSV, JSONL, Parquet, YFCC100M metadata, also compressed), WARC "
            "or WAT files, folders of these, page or sitemap URLs, or BASE_URL=FOLDER for saved "
            "pages.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory or fsspec URL of the dataset.")
    ],
    source: Annotated[
        str | None, typer.Option(help="Name written into every row; else the file's own.")
    ] = None,
    format: Annotated[
        ListFormat | None, typer.Option(help="Format of the lists; else found in their content.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Names for lists without a header, e.g. caption,url.")
    ] = None,
    url_column: Annotated[str | None, typer.Option(help="Column of the image's URL.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Column of the caption.")] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Version of the list or crawl, written into every row.")
    ] = None,
    earlier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="An earlier output: pairs of the same source in it are repeats."
        ),
    ] = None,
    contact: Annotated[
        str, typer.Option(help="E-mail or URL for site owners; needed to read pages off the web.")
    ] = "",
    agent: Annotated[str, typer.Option(help="Our product token, for robots.txt.")] = "dalle-graph",
    allow_network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Network to read from although it is not public."),
    ] = None,
    takedown: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="URLs and domains of pages that are not read."),
    ] = None,
    rows_per_part: Annotated[int, typer.Option(help="Pairs in one output file.")] = 2000,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No lines of progress.")] = False,
) -> None:
    """Find (url, caption) candidates in lists, pages and web archives.

    Writes image_text_candidates as Parquet into DIR, rows that are no candidates into
    DIR/_rejects, and prints how many of each. The same command again does nothing, or goes on
    where a killed one stopped.

    \b
    python -m pipelines.crawl.candidates cc3m.tsv --output candidates
    python -m pipelines.crawl.candidates CC-MAIN-*.warc.gz --snapshot CC-MAIN-2026-40 --output cc
    python -m pipelines.crawl.candidates https://example.org/=saved/ --output pages
    """
    engine = commands.engine(processes)
    logging.getLogger("pipelines").setLevel(logging.ERROR if quiet else logging.INFO)
    overrides: dict[str, Any] = {
        "format": format,
        "columns": tuple(columns.split(",")) if columns else (),
        "url_column": url_column,
        "caption_column": caption_column,
        "snapshot": snapshot,
    }
    sources = merged(_sources(inputs, source, overrides))
    online = any(s.kind in (SourceKind.SITEMAP, SourceKind.WEB_PAGES) for s in sources)
    if online and not contact and not allow_network:
        raise ValueError("reading pages off the web needs --contact, whom site owners can write to")
    http = HttpConfig(
        contact=contact or _LOOPBACK_CONTACT,
        agent=agent,
        allow_networks=tuple(allow_network or ()),
        processes=processes,
    )
    for directory in earlier or ():
        ledger.require_success(directory)
    finished = write_candidates(
        CrawlBatch("command", sources),
        output,
        join(output, _REJECTS),
        CandidatesConfig(http=http, takedown=takedown, rows_per_part=rows_per_part),
        engine,
        tuple(earlier or ()),
    )
    print("\n".join(commands.funnel_lines(finished.funnel)))
    for file, ignored in finished.details["ignored_columns"].items():
        names = printable(", ".join(ignored))
        print(f"{file}: nothing is taken from the columns {names}")
    print(f"{finished.rows:,} candidates in {output}")


def main() -> None:
    """Run the command and exit."""
    commands.run(extract)


def _sources(inputs: Sequence[str], name: str | None, overrides: dict[str, Any]) -> list[Source]:
    """The sources that `inputs` are; of several, one that is none is left to the reject table."""
    found, failed = [], []
    for text in inputs:
        try:
            found.append(_source(text, name, overrides))
        except ListError as error:
            if len(inputs) == 1 or isinstance(error.__cause__, OSError):
                raise
            failed.append(error)
            found.append(Source(name or source_name(text), SourceKind.URL_LIST, (text,)))
    if len(failed) == len(inputs):
        raise failed[0]
    return found


def _source(text: str, name: str | None, overrides: dict[str, Any]) -> Source:
    given = {key: value for key, value in overrides.items() if value}
    base, equals, directory = text.partition("=")
    if text.startswith(_WEB) and equals and storage.exists(directory):
        return source_of(directory, name or source_name(directory), base_url=base, **given)
    if text.startswith(_WEB):
        return source_of(text, name or urlsplit(text).hostname or "web", **given)
    return source_of(text, name or source_name(text), **given)
