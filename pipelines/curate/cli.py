"""The command `python -m pipelines.curate`."""

import dataclasses
import re
import typing
from functools import partial
from typing import Annotated, Any, Literal

import typer

from pipelines import commands, ledger, progress, storage
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
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.json",
            help="Any of pipelines.curate.config.CurateConfig by name; options go before it.",
        ),
    ] = None,
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
    given = {name: value for name, value in options.items() if value is not None}
    thresholds = _thresholds(read_config(config) if config else {}, given)
    engine = commands.engine(processes)
    rows = _fetched_rows(fetched)
    shown = progress.on_terminal(partial(progress.rows_done, output), "rows", rows, quiet=quiet)
    with shown:
        finished = write_curated(fetched, output, join(output, _REJECTS), thresholds, engine)
    print("\n".join(commands.funnel_lines(finished.funnel)))
    print(f"{finished.rows:,} pairs in {output}")


def _thresholds(read: dict[str, Any], given: dict[str, Any]) -> CurateConfig:
    """What the file says, and the options over it; errors name an option as it is written."""
    try:
        return CurateConfig(**read | given)
    except ValueError as error:
        text = str(error)
        for name in given:
            text = re.sub(rf"\b{name}\b", "--" + name.replace("_", "-"), text)
        raise ValueError(text) from error


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


def read_config(path: str) -> dict[str, Any]:
    """Fields of `CurateConfig` from a JSON object.

    Raises:
        ValueError: if it holds anything else.
    """
    found = storage.read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object of CurateConfig's fields")
    kinds = typing.get_type_hints(CurateConfig)
    unknown = sorted(set(found) - set(kinds))
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(CurateConfig))
        raise ValueError(f"{path} names {', '.join(unknown)}, which is not one of {known}")
    for name, value in found.items():
        if not _fits(value, kinds[name]):
            raise ValueError(f"{path}: {name} is {value!r}, which is not {_words(kinds[name])}")
    return {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()}


def _fits(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole if kind is int else isinstance(value, kind) or (kind is float and whole)


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if typing.get_origin(kind) is tuple:
        return "a list of texts"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words[kind]


def main() -> None:
    """Run the command and exit."""
    commands.run(curate)
