"""The Dagster daemon, as a child of whoever needs it."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.storage.tags import GRPC_INFO_TAG
from sqlalchemy import create_engine, text

from assets.lib import runs
from assets.lib.children import child
from assets.lib.home import UserError
from assets.lib.storage import postgres_url

_PATIENCE_SECONDS = 15.0
_START_SECONDS = 120.0
# Twice the interval of a daemon's heartbeats.
_FRESH_SECONDS = 60.0
# Any number, as long as it is always this one.
_ADVISORY_LOCK = 2102_12092
_LOST = (
    "the Dagster daemon of this run, or its machine, was killed. The next daemon tries the run "
    "again, twice at most; where it does not, launch it again: what is finished is kept"
)
_WORKED_ON = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def is_running(home: Path) -> bool:
    """Whether a daemon of this instance runs on this machine.

    Heartbeats in the instance outlive a killed daemon by minutes, so processes are asked.
    """
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("dagster-daemon" in w or w == "dagster._daemon" for w in words) and "run" in words:
            with contextlib.suppress(psutil.Error):
                theirs = process.environ().get("DAGSTER_HOME")
                if theirs and Path(theirs).resolve() == home.resolve():
                    return True
    return False


@contextlib.contextmanager
def running(instance: dg.DagsterInstance, home: Path, log: Path) -> Iterator[Callable[[], bool]]:
    """Run a daemon while the block runs, unless one of this instance is there already.

    The block gets a function that tells whether the daemon still lives.

    Args:
        instance: the instance of `home`; heartbeats are read from it.
        home: DAGSTER_HOME.
        log: file for the daemon's output.

    Raises:
        UserError: if the daemon ends or does not report within two minutes.
    """
    if is_running(home):
        yield lambda: is_running(home)
        return
    with _first_of_all_machines() as first:
        if not first or _beats_elsewhere(instance):
            # The other machine's may be starting, as this program is.
            begun = time.time()
            yield lambda: time.time() - max(begun, _newest_heartbeat(instance)) < _START_SECONDS
            return
        abandon_runs(instance)
        try:
            with _started(instance, log) as process:
                yield lambda: process.poll() is None
        finally:
            # It has ended: the next start need not find out whether this heartbeat is a living
            # one's.
            instance.wipe_daemon_heartbeats()


@contextlib.contextmanager
def _first_of_all_machines() -> Iterator[bool]:
    """Whether no program like this one, on any machine, works with the same database.

    PostgreSQL lets go of the lock when the connection ends, however that is.
    """
    url = postgres_url()
    if url is None:
        yield True
        return
    engine = create_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            question = text("select pg_try_advisory_lock(:key)")
            yield bool(connection.execute(question, {"key": _ADVISORY_LOCK}).scalar())
    finally:
        engine.dispose()


@contextlib.contextmanager
def _started(instance: dg.DagsterInstance, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    argv = [sys.executable, "-m", "dagster._daemon", "run", "-w", "workspace.yaml"]
    with open(log, "ab") as output, child(argv, _PATIENCE_SECONDS, output) as process:
        _wait_for_heartbeat(instance, process, log)
        try:
            yield process
        finally:
            if process.poll() is None:
                # A run that loses its daemon is killed; a cancelled one writes its checkpoint.
                found = instance.get_runs(filters=dg.RunsFilter(statuses=_WORKED_ON))
                runs.cancel(instance, [run.run_id for run in found])
            else:
                abandon_runs(instance)


def _beats_elsewhere(instance: dg.DagsterInstance) -> bool:
    """Whether another machine's daemon works on the same PostgreSQL database.

    A daemon of this machine that was just killed has left a fresh heartbeat too, so a fresh one
    is waited out: only a living daemon gives the next.
    """
    last = _newest_heartbeat(instance)
    while postgres_url() is not None and time.time() - last < _FRESH_SECONDS:
        if _newest_heartbeat(instance) > last:
            return True
        time.sleep(0.5)
    return False


def _newest_heartbeat(instance: dg.DagsterInstance) -> float:
    return max((b.timestamp for b in instance.get_daemon_heartbeats().values()), default=0.0)


def abandon_runs(instance: dg.DagsterInstance) -> None:
    """Close runs that a killed daemon left open: nobody works on them, and they hold limits.

    They have failed, as a run whose process crashed has: alerts tell of them, and the next daemon
    tries them again. One that somebody was cancelling must not come back.
    Those of other launchers, on Kubernetes for instance, go on without their daemon.
    """
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_WORKED_ON)):
        if GRPC_INFO_TAG not in run.tags:
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "it was being cancelled when its daemon was killed")
        else:
            instance.report_run_failed(run, _LOST)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _wait_for_heartbeat(
    instance: dg.DagsterInstance, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    started = time.time()
    while time.time() - started < _START_SECONDS:
        if process.poll() is not None:
            raise UserError(f"the Dagster daemon ended at its start; {log} says why")
        beats = instance.get_daemon_heartbeats().values()
        if any(beat.timestamp >= started for beat in beats):
            return
        time.sleep(0.2)
    raise UserError(f"the Dagster daemon gave no sign of life in two minutes; see {log}")
