"""How the programs of this room start: a mistake of the caller is one sentence, not a traceback."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from pipelines.publish.manifest import DatasetError
from training.errors import InputError

USAGE = 2
_WRONG_PATHS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_LESS_MEMORY = (
    "take fewer rows at a time (--micro-batch, --candidates), --recompute, or several processes "
    "with --shard=machine, as far as the program has them; nvidia-smi tells what else uses the GPU"
)


def new_app() -> typer.Typer:
    """An app without commands yet."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(program: Callable[..., Any] | typer.Typer) -> None:
    """Parse the command line for `program`, a function or an app of several, and run it.

    Exits with one line on stderr and status 2 if what was asked for cannot be done, or a GPU has
    too little memory for it; 1 if the system failed (a full disk), which may pass; `PEER_LOST` if a
    process of the same training is gone. Any other exception is a defect and keeps its traceback.
    """
    try:
        if isinstance(program, typer.Typer):
            program()
        app = new_app()
        app.command()(program)
        app()
    except (InputError, DatasetError, *_WRONG_PATHS) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        _explain(error)


def _explain(error: RuntimeError) -> NoReturn:
    torch = sys.modules.get("torch")
    if torch is None:  # so it was not torch's
        raise error
    from training.runtime import PEER_LOST, lost_a_peer, place

    if isinstance(error, torch.OutOfMemoryError):
        said = " ".join(str(error).split(". ")[0].split())
        print(f"error: {said}; {_LESS_MEMORY}", file=sys.stderr)
        sys.exit(USAGE)
    if lost_a_peer(error):
        print(
            f"error: process {place()[0]} lost the connection to another process, and ends too; "
            "the launcher of that one says what ended it",
            file=sys.stderr,
        )
        sys.exit(PEER_LOST)
    raise error
