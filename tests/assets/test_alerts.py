"""Alerts of failed runs, to a real server on this machine."""

import json
import logging
from collections.abc import Iterator

import dagster as dg
import pytest
from webhook import Webhook, webhook_server

from assets import alerts
from assets.alerts import VARIABLE, AlertError, failure_alert


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook_server() as found:
        monkeypatch.setenv(VARIABLE, found.url)
        yield found


def failed_run(instance: dg.DagsterInstance) -> dg.RunFailureSensorContext:
    @dg.asset
    def broken() -> None:
        raise dg.Failure("the disk is full; free some space")

    result = dg.materialize(
        [broken], instance=instance, raise_on_error=False, tags={"dagster/partition": "2026-10"}
    )
    event = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    return dg.build_run_status_sensor_context(
        "failure_alert", event, instance, result.dagster_run
    ).for_run_failure()


def test_a_failed_run_is_told(webhook: Webhook) -> None:
    with dg.instance_for_test() as instance:
        context = failed_run(instance)
        failure_alert(context)
    (told,) = webhook.told
    assert told["event"] == "run failed"
    assert told["run_id"] == context.dagster_run.run_id
    assert told["partition"] == "2026-10"
    assert told["failed_steps"] == {"broken": "the disk is full; free some space"}
    assert "the disk is full" in str(told["text"])
    assert "s3cret" not in json.dumps(told)


def test_it_is_told_again_until_somebody_listens(webhook: Webhook) -> None:
    webhook.answers = [503, 500]
    with dg.instance_for_test() as instance:
        failure_alert(failed_run(instance))
    assert (webhook.posts, len(webhook.told)) == (3, 1)


@pytest.mark.parametrize("answers", [[404], [503] * 9])
def test_a_refusal_is_an_error_without_the_address(
    webhook: Webhook, answers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    webhook.answers = list(answers)
    caplog.set_level(logging.DEBUG)
    with dg.instance_for_test() as instance:
        context = failed_run(instance)
        caplog.clear()
        with pytest.raises(Exception, match=VARIABLE) as error:
            failure_alert(context)
    assert f"it answered {answers[0]}" in str(error.value)
    assert webhook.told == []
    cause: BaseException | None = error.value
    while cause is not None:
        assert "s3cret" not in str(cause)
        cause = cause.__cause__ or cause.__context__
    assert "s3cret" not in caplog.text


def test_nobody_at_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for url in ("http://127.0.0.1:9/s3cret", "no url, s3cret"):
        with pytest.raises(AlertError, match=VARIABLE) as error:
            alerts._post(url, {})
        assert "s3cret" not in str(error.value)
        assert error.value.__context__ is None
    assert "s3cret" not in caplog.text


def test_without_the_variable_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with dg.instance_for_test() as instance:
        found = failure_alert(failed_run(instance))
    assert isinstance(found, dg.SkipReason)
    assert VARIABLE in str(found.skip_message)
