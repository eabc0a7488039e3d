"""The training launcher: a child process that reports to Dagster while it runs.

The child is the program that a person would start by hand (torchrun, or plain Python). It runs
under `assets.lib.supervisor`, so cancelling the run, a crash of this process or its kill -9
leave no process behind, and the child has time to write a checkpoint first.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import dagster as dg

from assets.lib import exhibits, supervisor

REPOSITORY = Path(__file__).resolve().parents[2]
_LAST_LINES = 25
_REMEMBERED_LINES = 200
# With this line torchrun begins its own report, which buries the program's last words.
_TORCHRUN_REPORT = "failed (exitcode:"
_POLL_SECONDS = 0.5
# Of the pictures in one observation; a long training has many observations.
_PICTURE_BYTES = 40_000


@dataclass(frozen=True)
class TrainingProgram:
    """One program to start.

    Attributes:
        module: Python module of the entry point.
        arguments: its command line; all of its configuration is here.
        processes: training processes on this host; None starts plain Python instead of torchrun.
    """

    module: str
    arguments: tuple[str, ...] = ()
    processes: int | None = None

    def argv(self) -> list[str]:
        """The command line."""
        python = [sys.executable, "-m"]
        if self.processes is None:
            return [*python, self.module, *self.arguments]
        # torchrun's own variable: where it is set, they say how several hosts meet.
        alone = [] if "PET_NNODES" in os.environ else ["--standalone"]
        torchrun = ["training.launch", *alone, f"--nproc-per-node={self.processes}"]
        return [*python, *torchrun, "-m", self.module, *self.arguments]

    def environment(self) -> dict[str, str]:
        """This process's environment, the cores shared among the training processes."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = max(1, (cores or 1) // (self.processes or 1))
        defaults = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        return defaults | dict(os.environ)


def run(
    context: dg.AssetExecutionContext,
    program: TrainingProgram,
    *,
    patience: float = supervisor.CHECKPOINT_SECONDS,
    observe_every: float = 10.0,
) -> None:
    """Run `program` to its end.

    Its progress messages with figures become observations of the asset (a loss curve on its
    page), at most one in `observe_every` seconds; its output goes to the step's compute log.

    Raises:
        dg.Failure: if it ends with another status than 0, with its last lines.
    """
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        context.log.info("starting: %s", " ".join(program.argv()))
        child = subprocess.Popen(
            supervisor.command(program.argv(), patience),
            cwd=REPOSITORY,
            env=program.environment() | dict(session.get_bootstrap_env_vars()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        output = _Tee(child.stdout)
        progress = _Progress(context, observe_every)
        started: set[Any] = set()
        try:
            while child.poll() is None:
                time.sleep(_POLL_SECONDS)
                started |= supervisor.descendants(child.pid)
                progress.report(session.get_custom_messages())
        except BaseException:
            with _uninterrupted():
                context.log.info("interrupted: stopping the training processes")
                _stop(child, patience)
                supervisor.kill(p for p in started if supervisor.alive(p))
            raise
        finally:
            output.finish()
            if child.stdin is not None:
                child.stdin.close()
    progress.report(session.get_custom_messages(), last=True)
    if child.returncode != 0:
        raise _failure(program, child.returncode, output.last)


def _stop(child: subprocess.Popen[str], patience: float) -> None:
    child.send_signal(signal.SIGTERM)
    # The supervisor kills when its patience ends; the margin is for itself.
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(patience + 5)
    child.kill()
    child.wait()


def _failure(program: TrainingProgram, status: int, last: Sequence[str]) -> dg.Failure:
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        hint = "It was stopped from outside; launch again, it goes on from its checkpoint."
    elif status == 128 + signal.SIGKILL:
        hint = "It was killed, most often for want of memory; make the batch smaller."
    else:
        hint = "Its last lines are below; after the repair, launch again: it resumes."
    tail = "\n".join(_last_words(last))
    return dg.Failure(
        description=f"{program.module} ended with status {status}. {hint}\n{tail}",
        metadata={"command": " ".join(program.argv()), "last lines": tail},
        allow_retries=False,
    )


def _last_words(lines: Sequence[str]) -> list[str]:
    """The end of a program's output, without torchrun's report about it."""
    end = next((i for i, line in enumerate(lines) if _TORCHRUN_REPORT in line), len(lines))
    return list(lines)[:end][-_LAST_LINES:]


class _Tee:
    """Copies a child's output to this step's compute log and remembers its end."""

    def __init__(self, stream: IO[str] | None):
        self.last: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self._stream = stream
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        for line in self._stream or ():
            self.last.append(line.rstrip())
            sys.stderr.write(line)

    def finish(self) -> None:
        self._thread.join(timeout=5)


@dataclass
class _Progress:
    """Turns progress messages into observations, not more often than the page can use."""

    context: dg.AssetExecutionContext
    every: float
    seen: int = 0
    observed_at: float = -1e9
    pending: dict[str, Any] | None = None
    pictures: dict[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = field(default=time.monotonic)

    def report(self, messages: Sequence[Any], *, last: bool = False) -> None:
        for message in messages[self.seen :]:
            if isinstance(message, dict) and message.get("kind") == "progress":
                self.pending = message
            elif isinstance(message, dict) and message.get("kind") == "picture":
                self.pictures[str(message["name"])] = str(message["path"])
        self.seen = len(messages)
        if self.pending is None or not (last or self.clock() - self.observed_at >= self.every):
            return
        step, updates = int(self.pending["step"]), int(self.pending["updates"])
        metrics = {str(k): float(v) for k, v in self.pending.get("metrics", {}).items()}
        figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.context.log.info("update %d of %d%s", step, updates, figures and f": {figures}")
        shown = exhibits.pictures(self.pictures, _PICTURE_BYTES)
        observed: dict[str, Any] = {"step": step, "updates": updates, **metrics, **shown}
        # In a plot, an event without a figure is a gap between two that have it.
        if metrics or shown:
            self.context.log_event(
                dg.AssetObservation(asset_key=self.context.asset_key, metadata=observed)
            )
        self.observed_at, self.pending, self.pictures = self.clock(), None, {}


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second cancel must not stop the stopping."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
