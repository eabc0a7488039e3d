"""Run one command so that nothing it started outlives whoever asked for it.

    python -m assets.lib.supervisor --patience SECONDS -- COMMAND...

torchrun starts its workers in sessions of their own, so a signal to its process group does not
reach them; PR_SET_PDEATHSIG does not pass to grandchildren and follows the parent's *thread*.
So this small process stands between: it is the child subreaper of everything below it, and it
holds the reading end of a pipe (its standard input) whose writing end lives in the process that
asked. When that process dies, even by SIGKILL, the pipe ends; the command then gets SIGTERM,
`--patience` seconds to write a checkpoint, and at last everything below gets SIGKILL.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

import psutil

# Of a training. Its launcher gives the workers ten minutes for a checkpoint, then kills them.
CHECKPOINT_SECONDS = 630.0
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.2


def command(argv: Iterable[str], patience: float) -> list[str]:
    """The command line that runs `argv` under a supervisor; give it a pipe as standard input."""
    module = ["-m", "assets.lib.supervisor", "--patience", str(patience), "--"]
    return [sys.executable, *module, *argv]


def descendants(pid: int) -> set[psutil.Process]:
    """Every live process below `pid`, zombies left out."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {p for p in psutil.Process(pid).children(recursive=True) if alive(p)}
    return set()


def alive(process: psutil.Process) -> bool:
    """Whether the same process (not another with its id) still runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL; processes that are gone are no error."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def supervise(argv: list[str], patience: float) -> int:
    """Run `argv` until it ends, a SIGTERM or SIGINT comes, or standard input ends.

    Returns:
        The command's exit status, 128 + signal number where a signal ended it.
    """
    _become_subreaper()
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: asked_to_stop.set())
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    while child.poll() is None and not asked_to_stop.is_set():
        if _lifeline_ended(_POLL_SECONDS):
            asked_to_stop.set()
    if child.poll() is None:
        # Only the first process is told: torchrun passes the signal to its workers, and a second
        # one could interrupt the checkpoint that the first asked for.
        child.send_signal(signal.SIGTERM)
    _wait_for_all(child, patience)
    kill(descendants(os.getpid()))
    status = child.wait()
    return status if status >= 0 else 128 - status


def _wait_for_all(child: subprocess.Popen[bytes], patience: float) -> None:
    """Give everything below `patience` seconds to end, and reap what the subreaper inherited."""
    end = time.monotonic() + patience
    while time.monotonic() < end and (child.poll() is None or descendants(os.getpid())):
        time.sleep(_POLL_SECONDS)


def _lifeline_ended(seconds: float) -> bool:
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and os.read(0, 1) == b""


def _become_subreaper() -> None:
    # Other systems than Linux have no subreaper; there orphans are found only while their
    # parent lives.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patience", type=float, required=True, help="seconds before SIGKILL")
    parser.add_argument("argv", nargs="+", help="the command and its arguments")
    arguments = parser.parse_args()
    return supervise(arguments.argv, arguments.patience)


if __name__ == "__main__":
    sys.exit(main())
