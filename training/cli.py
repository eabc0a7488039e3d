"""How the programs of this room start: a mistake of the caller is one sentence, not a traceback."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from pipelines.publish.manifest import DatasetError
from training.errors import USAGE, InputError

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
        _end(USAGE, str(error))
    except OSError as error:
        _end(1, str(error))
    except RuntimeError as error:
        _explain(error)


def _end(status: int, said: str) -> NoReturn:
    print(f"error: {said}", file=sys.stderr)
    if "torch" not in sys.modules:
        sys.exit(status)
    from training import runtime

    runtime.end(status)


def _explain(error: RuntimeError) -> NoReturn:
    torch = sys.modules.get("torch")
    if torch is None:  # so it was not torch's
        raise error
    from training.runtime import PEER_LOST, first_line, lost_a_peer, place

    if isinstance(error, torch.OutOfMemoryError):
        said = " ".join(str(error).split(". ")[0].split())
        _end(USAGE, f"{said}; {_LESS_MEMORY}")
    if lost_a_peer(error):
        _end(
            PEER_LOST,
            f"process {place()[0]} lost the connection to another process, and ends too "
            f"({first_line(error)}); the launcher of that one says what ended it",
        )
    raise error
