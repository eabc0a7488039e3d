"""The command `python -m pipelines.curate`."""

from functools import partial
from typing import Annotated, Literal

import typer

from pipelines import commands, ledger, progress
from pipelines.config_files import configured
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import write_curated
from pipelines.layout import join

_REJECTS = "_rejects"
_DEFAULT = CurateConfig()


def curate(
    fetched: Annotated[
        str,
        typer.Argument(
            metavar="FETCHED", help="Finished directory of fetched_pairs.", show_default=False
        ),
    ],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory or fsspec URL of the dataset.")
    ],
    min_side: Annotated[
        int | None, typer.Option(help=f"Least side in pixels [{_DEFAULT.min_side}].")
    ] = None,
    min_bytes: Annotated[
        int | None, typer.Option(help=f"Least length of a file [{_DEFAULT.min_bytes}].")
    ] = None,
    detector: Annotated[
        Literal["cld3", "lid176"] | None,
        typer.Option(help=f"Language detector [{_DEFAULT.detector}]."),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help=f"Language that is kept, ISO 639 [{_DEFAULT.language}].")
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(help=f"Shorter side of the stored image [{_DEFAULT.short_side}]."),
    ] = None,
    encoding: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        typer.Option(help=f"Format of the stored image [{_DEFAULT.encoding}]."),
    ] = None,
    config: Annotated[str | None, commands.config_file(CurateConfig)] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Keep the fetched pairs that pass every caption and image rule.

    Writes curated_pairs as Parquet into DIR, the dropped rows with their reason into DIR/_rejects,
    and prints how many of each. The same command again does nothing, or goes on where a killed
    one stopped.

    \b
    python -m pipelines.curate fetched --output curated
    python -m pipelines.curate fetched --output curated --min-side 128 --encoding webp
    """
    options = {
        "min_side": min_side,
        "min_bytes": min_bytes,
        "detector": detector,
        "language": language,
        "short_side": short_side,
        "encoding": encoding,
    }
    thresholds = configured(_DEFAULT, config or "", options)
    engine = commands.engine(processes)
    rows = _fetched_rows(fetched)
    shown = progress.on_terminal(partial(progress.rows_done, output), "rows", rows, quiet=quiet)
    with shown:
        finished = write_curated(fetched, output, join(output, _REJECTS), thresholds, engine)
    print("\n".join(commands.funnel_lines(finished.funnel)))
    print(f"{finished.rows:,} pairs in {output}")


def _fetched_rows(fetched: str) -> int:
    """Rows that come in.

    Raises:
        FileNotFoundError: if the directory is not finished, with the command that makes it.
    """
    done = ledger.read_success(fetched)
    if done is None:
        raise FileNotFoundError(
            f"{fetched} is not finished (no {ledger.SUCCESS}); first run "
            f"python -m pipelines.crawl.fetch CANDIDATES --output {fetched}"
        )
    return done.funnel.kept


def main() -> None:
    """Run the command and exit."""
    commands.run(curate)
