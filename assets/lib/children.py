"""Long-running programs beside the current one, which cannot outlive it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO

from assets.lib import supervisor
from assets.lib.settings import REPOSITORY


@contextlib.contextmanager
def child(
    argv: Sequence[str], patience: float, output: IO[bytes] | None = None
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run `argv` under a supervisor while the block runs; stop it and all it started at the end.

    Args:
        argv: the command line.
        patience: seconds between SIGTERM and SIGKILL.
        output: file for what it prints; the terminal if None.
    """
    # A session of its own: Ctrl-C in the terminal reaches this process alone, which then stops
    # its children in the right order.
    process = subprocess.Popen(
        supervisor.command(argv, patience),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        cwd=REPOSITORY,
        env=dict(os.environ) | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience + 5)
        supervisor.kill(supervisor.descendants(process.pid))
        process.kill()
        process.wait()
