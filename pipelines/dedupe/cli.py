"""The command `python -m pipelines.dedupe`."""

from functools import partial
from typing import Annotated

import typer

from pipelines import commands, ledger, progress
from pipelines.config_files import configured
from pipelines.dedupe import overlap
from pipelines.dedupe.config import DedupeConfig, Mode
from pipelines.dedupe.reference_cli import per_cents
from pipelines.dedupe.transform import Places, write_deduped
from pipelines.dedupe.verify import remaining_copies
from pipelines.layout import join

_REJECTS = "_rejects"
_DEFAULT = DedupeConfig()


def dedupe(
    curated: Annotated[
        str, typer.Argument(metavar="CURATED", help="Directory of finished curated_pairs.")
    ],
    index: Annotated[
        str,
        typer.Option(metavar="DIR", help="Index that pipelines.dedupe.reference_index built."),
    ],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory or fsspec URL of the dataset.")
    ],
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="What becomes of reference copies: dropped, kept with dup_of set, or kept and "
            f"their references listed in _overlap/ for the evaluation [{_DEFAULT.mode}]."
        ),
    ] = None,
    earlier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Output of an earlier batch: its pictures are repeats here. May repeat.",
        ),
    ] = None,
    radius: Annotated[
        int | None, typer.Option(help=f"64-bit distance of candidates [{_DEFAULT.radius}].")
    ] = None,
    confirm: Annotated[
        int | None, typer.Option(help=f"256-bit distance of copies [{_DEFAULT.confirm}].")
    ] = None,
    crops: Annotated[str | None, typer.Option(help="As the index was built [3,6,10].")] = None,
    cuts: Annotated[str | None, typer.Option(help="As the index was built [none].")] = None,
    near_repeats: Annotated[
        bool | None,
        typer.Option(
            "--near-repeats/--no-near-repeats",
            help="Drop near-identical pictures, not only equal files, which is the default.",
        ),
    ] = None,
    config: Annotated[str | None, commands.config_file(DedupeConfig)] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Pairs compared with every reference by brute force.")
    ] = 1000,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
) -> None:
    """Drop near-duplicates of the reference images, and repeats.

    Writes deduped_pairs as Parquet into DIR, dropped rows into DIR/_rejects, and prints how many of
    each. The same command again does nothing, or goes on where a killed one stopped.

    \b
    python -m pipelines.dedupe curated --index coco --output deduped --mode report
    """
    options = {
        "mode": mode,
        "radius": radius,
        "confirm": confirm,
        "crops": per_cents(crops),
        "cuts": per_cents(cuts),
        "near_repeats": near_repeats,
    }
    recipe = configured(_DEFAULT, config or "", options)
    _require(curated, f"python -m pipelines.curate FETCHED --output {curated}")
    _require(index, f"python -m pipelines.dedupe.reference_index IMAGES --output {index}")
    for directory in earlier or ():
        _require(directory, f"python -m pipelines.dedupe CURATED --output {directory}")
    places = Places(
        curated, index, output, join(output, _REJECTS), {place: place for place in earlier or ()}
    )
    engine = commands.engine(processes)
    rows = ledger.require_success(curated).rows
    with progress.on_terminal(partial(progress.rows_done, output), "rows", rows):
        finished = write_deduped(places, recipe, engine)
    left = remaining_copies(output, index, recipe, verify)
    if left:
        raise ValueError(
            f"{len(left)} of {verify} pairs are still reference copies, the first is {left[0].uid} "
            f"of {left[0].match.reference}; use none of {output} and report this as a defect"
        )
    print("\n".join(commands.funnel_lines(finished.funnel)))
    figures = finished.details
    print(f"{figures['no_decision']:,} kept pictures hold too little to decide on")
    met = figures["overlapping_references"]
    print(f"{met:,} reference images are overlapped with: {join(output, overlap.FILE)}")
    print(f"{finished.rows:,} pairs in {output}")


def _require(directory: str, command: str) -> None:
    """Say which command finishes a directory, if it is not."""
    if ledger.read_success(directory) is None:
        raise FileNotFoundError(f"{directory} is not finished; run this first: {command}")


def main() -> None:
    """Run the command and exit."""
    commands.run(dedupe)
