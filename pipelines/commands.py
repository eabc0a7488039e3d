"""How the stages' commands (`python -m pipelines...`) start, end and fail."""

import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import psutil
import typer

from pipelines.crawl.http.outcomes import printable
from pipelines.ledger import Funnel
from pipelines.runners import Engine

USAGE = 2
_LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"


def run(program: Callable[..., None]) -> NoReturn:
    """Parse the command line for `program`, run it and exit.

    Exit status 2 and one line on stderr if what was asked for cannot be done, 130 after Ctrl-C; any
    other exception is a defect and keeps its traceback.
    """

    @functools.wraps(program)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            program(*args, **options)
            # Here, for at the interpreter's end nobody could take the error.
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our lines has seen enough, `head` for instance.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ValueError, OSError) as error:
            print(f"error: {printable(_sentence(error))}", file=sys.stderr)
            raise typer.Exit(USAGE) from error

    logging.basicConfig(level=logging.ERROR, format=_LOG_FORMAT)
    _end_at_once_on_signals()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(guarded)
    app()
    raise AssertionError("typer exits")


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def engine(processes: int) -> Engine:
    """The in-process Beam engine, or one of so many processes on this machine.

    Call it before anything draws on stderr: what the processes of the latter print is kept away.
    """
    if processes == 1:
        return Engine()
    _silence_children()
    options = ("--direct_running_mode=multi_processing", f"--direct_num_workers={processes}")
    return Engine("in-process", options)


def _end_at_once_on_signals() -> None:
    """End on Ctrl-C, SIGTERM and a closed terminal, without waiting for threads and children.

    For commands whose files are whole at any moment. Exit status 128 + the signal's number.
    """

    def end(number: int, _frame: Any) -> None:
        shown = os.dup(sys.stderr.fileno())
        # Beam's threads would print that their workers are gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(shown, b"\ninterrupted: the same command goes on from here\n")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
        signal.signal(signal.SIGHUP, end)


def _silence_children() -> None:
    """Keep what Beam's worker processes print away; their errors come through the driver too."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    logging.basicConfig(level=logging.ERROR, format=_LOG_FORMAT, force=True)


def config_file(kind: type) -> Any:
    """The option `--config` of a command whose stage the dataclass `kind` configures."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    return typer.Option(metavar="FILE.json", help=f"Any of {name} by name; options go before it.")


def funnel_lines(funnel: Funnel) -> list[str]:
    """The funnel for a terminal: in, kept, and dropped by reason, the most frequent first."""
    dropped = sorted(funnel.dropped.items(), key=lambda item: (-item[1], item[0]))
    rows = [("in", funnel.rows_in), ("kept", funnel.kept), *dropped]
    share = max(funnel.rows_in, 1)
    return [f"{name:28} {count:12,} {count / share:7.1%}" for name, count in rows]
