"""Launch a job by the real command, follow it in the instance, cancel it on interruption."""

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

import dagster as dg

from assets.lib.home import UserError
from assets.lib.settings import REPOSITORY
from assets.lib.supervisor import CHECKPOINT_SECONDS

_POLL_SECONDS = 0.5
# Most runs have ended by then.
_TELL_SECONDS = 10.0
# A step ends a little later than the training that it stopped.
CANCEL_SECONDS = CHECKPOINT_SECONDS + 30.0
# Their names are one argument of a command, which Linux limits to 128 KiB.
_BATCHES_AT_ONCE = 1000
DAEMON_ENDED = "the Dagster daemon ended; its log says why. Start again: finished work is kept"
_LAUNCH_TAG = "dalle/launch"
_PARTITION_TAG = "dagster/partition"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FINISHED = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)
_CAN_BE_ASKED = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED)

Event = dg.EventLogEntry


def launch(job: str, tags: Mapping[str, str]) -> str:
    """Enqueue a run with `dagster job launch` and return its id.

    Raises:
        UserError: if the command fails, with its last lines.
    """
    run_id = str(uuid.uuid4())
    _dagster_job("launch", job, "--run-id", run_id, "--tags", json.dumps(dict(tags)))
    return run_id


def launch_batches(
    instance: dg.DagsterInstance, job: str, batches: Sequence[str]
) -> dict[str, str]:
    """Enqueue a run of a partitioned job for each batch, with `dagster job backfill`.

    The code location, which takes seconds to load, is loaded once for all of them.

    Returns:
        The run's id by batch.

    Raises:
        UserError: as `launch`; runs of earlier thousands of batches are queued then.
    """
    tag = {_LAUNCH_TAG: str(uuid.uuid4())}
    for first in range(0, len(batches), _BATCHES_AT_ONCE):
        names = ",".join(batches[first : first + _BATCHES_AT_ONCE])
        _dagster_job(
            "backfill", job, "--partitions", names, "--noprompt", "--tags", json.dumps(tag)
        )
    queued = instance.get_runs(filters=dg.RunsFilter(tags=tag))
    run_ids = {run.tags[_PARTITION_TAG]: run.run_id for run in queued}
    missing = [name for name in batches if name not in run_ids]
    if missing:
        raise UserError(f"no run of {job} was queued for {', '.join(missing)}; launch them again")
    return {name: run_ids[name] for name in batches}


def _dagster_job(action: str, job: str, *options: str) -> None:
    command = [sys.executable, "-m", "dagster", "job", action, "-w", "workspace.yaml"]
    command += ["-j", job, *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = _COLOUR.sub("", done.stdout + done.stderr).splitlines()
        told = next((line for line in lines if line.startswith("Error: ")), None)
        if told is not None:
            raise UserError(told.removeprefix("Error: "))
        tail = "\n".join([line for line in lines if " - INFO - " not in line][-15:])
        raise UserError(f"`dagster job {action} -j {job}` failed; its last lines:\n{tail}")


def follow(
    instance: dg.DagsterInstance,
    run_id: str,
    on_event: Callable[[Event], None],
    daemon_lives: Callable[[], bool] = lambda: True,
) -> dg.DagsterRunStatus:
    """Hand every new event of the run to `on_event` until the run ends.

    If this is interrupted, the run is cancelled and waited for. `daemon_lives` is what
    `daemon.running` gives, where the caller runs the daemon.

    Raises:
        UserError: if the daemon ends before the run: nobody would work on it.
    """
    cursor: str | None = None
    try:
        while daemon_lives():
            run = instance.get_run_by_id(run_id)
            connection = instance.get_records_for_run(run_id, cursor=cursor)
            cursor = connection.cursor
            for record in connection.records:
                on_event(record.event_log_entry)
            if run is not None and run.status in _FINISHED and not connection.records:
                return run.status
            time.sleep(_POLL_SECONDS)
    except BaseException:
        cancel(instance, [run_id])
        raise
    raise UserError(DAEMON_ENDED)


def cancel(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> None:
    """Cancel runs, queued or started, all at once, and wait until they have ended."""
    begun, told = time.monotonic(), False
    waiting, asked = list(run_ids), set[str]()
    while waiting and time.monotonic() - begun < CANCEL_SECONDS:
        found = [run for i in waiting if (run := instance.get_run_by_id(i)) is not None]
        unfinished = [run for run in found if run.status not in _FINISHED]
        waiting = [run.run_id for run in unfinished]
        for run in unfinished:
            # A run that is just starting has no address yet at which it could be asked.
            can = run.run_id not in asked and run.status in _CAN_BE_ASKED
            if can and instance.run_coordinator.cancel_run(run.run_id):
                asked.add(run.run_id)
        if waiting and not told and time.monotonic() - begun > _TELL_SECONDS:
            told = True
            print(
                "waiting for what was cancelled: a training has ten minutes to write its "
                "checkpoint; Ctrl-C again waits no longer",
                flush=True,
            )
        time.sleep(_POLL_SECONDS if waiting else 0)


def failure(event: Event) -> str | None:
    """What went wrong, if the event is the failure of a step or of a blocking check's gate."""
    dagster_event = event.dagster_event
    if dagster_event is None or not dagster_event.is_step_failure:
        return None
    data = dagster_event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else "no reason given"
