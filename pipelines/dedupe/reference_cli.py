"""The command `python -m pipelines.dedupe.reference_index`."""

from typing import Annotated

import typer

from pipelines import commands, progress, storage
from pipelines.config_files import configured
from pipelines.crawl.config import HttpConfig
from pipelines.dedupe import measure
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_index import TASKS, write_index
from pipelines.dedupe.references import ReferenceSource
from pipelines.layout import join

_DEFAULT = DedupeConfig()


def build(
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="Folder (MS-COCO with val2014/ and annotations/, CUB-200 with images.txt, or any "
            "other), Parquet file or glob, or text file of URLs.",
        ),
    ],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory or fsspec URL of the index.")
    ],
    image_column: Annotated[
        str, typer.Option(help="Of Parquet: bytes, or a struct of bytes and path.")
    ] = "image",
    name_column: Annotated[
        str | None, typer.Option(help="Of Parquet: names of the images.")
    ] = None,
    crops: Annotated[
        str | None, typer.Option(help="Centred crops, per cent of a side [3,6,10].")
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(help="Per cent lost at one or two edges, e.g. 6; 16 hashes more each [none]."),
    ] = None,
    measured: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"References attacked to measure the recall [{_DEFAULT.measured_references}].",
        ),
    ] = None,
    config: Annotated[str | None, commands.config_file(DedupeConfig)] = None,
    unrelated: Annotated[
        str | None,
        typer.Option(help="Images that copy no reference, to measure false flags; as IMAGES."),
    ] = None,
    contact: Annotated[
        str, typer.Option(help="E-mail or URL for site owners; needed to fetch URLs.")
    ] = "",
    allow_network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Network to fetch from although it is not public."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
) -> None:
    """Hash the images that must not be trained on, and measure which copies of them are found.

    Writes the index into DIR, prints what became of the images, and for every attack how many of
    a sample are found. Only images that are new since the last time are hashed.

    \b
    python -m pipelines.dedupe.reference_index coco/ --output coco_hash_index
    """
    options = {
        "crops": per_cents(crops),
        "cuts": per_cents(cuts),
        "measured_references": measured,
    }
    recipe = configured(_DEFAULT, config or "", options)
    http = HttpConfig(contact, allow_networks=tuple(allow_network or ())) if contact else None
    source = ReferenceSource(images, image_column, name_column, http)
    others = ReferenceSource(unrelated, image_column, name_column, http) if unrelated else None
    tasks = join(output, TASKS, "references", "references")
    engine = commands.engine(processes)

    def look() -> progress.Seen:
        return progress.Seen(len(storage.list_files(tasks, ".parquet")))

    with progress.on_terminal(look, "tasks of 256 images"):
        finished = write_index(source, output, recipe, engine, others)
    print("\n".join(commands.funnel_lines(finished.funnel)))
    for split, counts in finished.details["splits"].items():
        print(f"{split}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    recalled, flagged = measure.read_measured(output)
    print(f"{'attack':28} {'found':>12} {'95 % interval':>16} {'64 bits alone':>14}")
    for row in recalled:
        found = f"{row['caught']} of {row['tried']}"
        interval = f"{row['low_95']:.1%}-{row['high_95']:.1%}"
        print(f"{row['attack']:28} {found:>12} {interval:>16} {row['plain_caught']:>14}")
    for row in flagged:
        print(
            f"flagged of {row['against']}: {row['caught']} of {row['tried']}, at most "
            f"{row['high_95']:.2%} (64 bits alone: {row['plain_caught']})"
        )
    print(f"{finished.rows:,} hashes in {output}")


def per_cents(text: str | None) -> tuple[int, ...] | None:
    """`3,6,10` as numbers; None as it is.

    Raises:
        ValueError: if it is something else.
    """
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(",") if word)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a list of whole numbers such as 3,6,10") from error


def main() -> None:
    """Run the command and exit."""
    commands.run(build)
