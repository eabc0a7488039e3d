"""Failed runs, and models refused promotion among them, told to a webhook."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.lib.runs import failure
from assets.validate import model_comparison

# The address is often a secret: it is read here only, and is in no log and on no page.
VARIABLE = "DALLE_ALERT_WEBHOOK"
# Together below the minute that the daemon gives a sensor.
_TIMEOUT_SECONDS = 8.0
_LONGEST = 1000


class AlertError(Exception):
    """The webhook was not told."""


@dg.run_failure_sensor(
    name="failure_alert",
    minimum_interval_seconds=15,
    default_status=(
        dg.DefaultSensorStatus.RUNNING
        if os.environ.get(VARIABLE)
        else dg.DefaultSensorStatus.STOPPED
    ),
    description=f"Posts every failed run as JSON to {VARIABLE}; a refused promotion is one.",
)
def failure_alert(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """One failed run."""
    url = os.environ.get(VARIABLE)
    if not url:
        return dg.SkipReason(f"{VARIABLE} is not set: nobody is told of failed runs")
    _post(url, message(context))
    return None


def message(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """What the webhook is told; `text` alone suffices for a chat."""
    run = context.dagster_run
    steps, checks = _failed_steps(context), _failed_checks(context)
    refused = [why for (asset, _), why in checks.items() if asset == model_comparison.key]
    event = "promotion refused" if refused else "run failed"
    reasons = (
        refused or list(steps.values()) or [context.failure_event.message or "no reason given"]
    )
    return {
        "event": event,
        "job": run.job_name,
        "run_id": run.run_id,
        "partition": run.tags.get("dagster/partition"),
        "failed_steps": steps,
        "failed_checks": {name: why for (_, name), why in checks.items()},
        "text": f"{event}: {run.job_name} ({run.run_id[:8]}): {'; '.join(reasons)}"[:_LONGEST],
    }


def _failed_steps(context: dg.RunFailureSensorContext) -> dict[str, str]:
    """Reason by step."""
    records = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE
    ).records
    entries = [record.event_log_entry for record in records]
    return {str(e.step_key): (failure(e) or "no reason given")[:_LONGEST] for e in entries}


def _failed_checks(context: dg.RunFailureSensorContext) -> dict[tuple[dg.AssetKey, str], str]:
    """What blocking checks found wrong, by asset and check."""
    records = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    found = {}
    for record in records:
        event = record.event_log_entry.dagster_event
        if event is not None and not (said := event.asset_check_evaluation_data).passed:
            why = said.description or "no reason given"
            found[said.asset_key, said.check_name] = why[:_LONGEST]
    return found


def _post(url: str, value: Mapping[str, Any]) -> None:
    """Post JSON, with a few more tries.

    Raises:
        AlertError: if nobody took it; without the address.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=3,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    # What it says of another try holds the address.
    log = logging.getLogger("urllib3")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            answer = session.post(url, json=value, timeout=_TIMEOUT_SECONDS)
            problem = "" if answer.ok else f"it answered {answer.status_code}"
    except requests.RequestException as error:
        problem = type(error).__name__
    finally:
        log.setLevel(level)
    # Not inside the handler: the exception that was handled there holds the address too.
    if problem:
        raise AlertError(f"the webhook of {VARIABLE} was not told: {problem}")
