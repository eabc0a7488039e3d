"""How the programs of this room start: a mistake of the caller is one sentence, not a traceback."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from pipelines.publish.manifest import DatasetError
from training.errors import InputError

USAGE = 2
_LESS_MEMORY = (
    "take fewer rows at a time (--micro-batch, --candidates), --recompute, or several processes "
    "with --shard=machine, as far as the program has them; nvidia-smi tells what else uses the GPU"
)


def new_app() -> typer.Typer:
    """An app without commands yet."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(program: Callable[..., Any] | typer.Typer) -> None:
    """Parse the command line for `program`, a function or an app of several, and run it.

    Exits with status 2 and one line on stderr if what was asked for cannot be done, or a GPU has
    too little memory for it; any other exception is a defect and keeps its traceback.
    """
    try:
        if isinstance(program, typer.Typer):
            program()
        app = new_app()
        app.command()(program)
        app()
    except (InputError, DatasetError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except RuntimeError as error:
        # Where it is not imported, it was not torch.
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        said = " ".join(str(error).split(". ")[0].split())
        print(f"error: {said}; {_LESS_MEMORY}", file=sys.stderr)
        sys.exit(USAGE)
