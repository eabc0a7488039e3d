"""Launch a job by the real command, follow it in the instance, cancel it on interruption."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping

import dagster as dg

from assets.lib.home import UserError
from assets.lib.settings import REPOSITORY

_POLL_SECONDS = 0.5
_CANCEL_SECONDS = 60.0
_FINISHED = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)

Event = dg.EventLogEntry


def launch(job: str, tags: Mapping[str, str]) -> str:
    """Enqueue a run with `dagster job launch` and return its id.

    Raises:
        UserError: if the command fails, with its last lines.
    """
    run_id = str(uuid.uuid4())
    command = [sys.executable, "-m", "dagster", "job", "launch", "-w", "workspace.yaml"]
    command += ["-j", job, "--run-id", run_id, "--tags", json.dumps(dict(tags))]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise UserError(f"`dagster job launch -j {job}` failed; its last lines:\n{tail}")
    return run_id


def follow(
    instance: dg.DagsterInstance, run_id: str, on_event: Callable[[Event], None]
) -> dg.DagsterRunStatus:
    """Hand every new event of the run to `on_event` until the run ends.

    If this is interrupted, the run is cancelled and waited for.
    """
    cursor: str | None = None
    try:
        while True:
            run = instance.get_run_by_id(run_id)
            connection = instance.get_records_for_run(run_id, cursor=cursor)
            cursor = connection.cursor
            for record in connection.records:
                on_event(record.event_log_entry)
            if run is not None and run.status in _FINISHED and not connection.records:
                return run.status
            time.sleep(_POLL_SECONDS)
    except BaseException:
        cancel(instance, run_id)
        raise


def cancel(instance: dg.DagsterInstance, run_id: str) -> None:
    """Cancel a run, queued or started, and wait until it has ended."""
    end = time.monotonic() + _CANCEL_SECONDS
    asked = False
    while time.monotonic() < end:
        run = instance.get_run_by_id(run_id)
        if run is None or run.status in _FINISHED:
            return
        # A run that is just starting has no address yet at which it could be asked.
        if not asked and run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED):
            asked = instance.run_coordinator.cancel_run(run_id)
        time.sleep(_POLL_SECONDS)


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
