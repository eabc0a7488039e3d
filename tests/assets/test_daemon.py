"""Which daemon is ours, and which runs a killed one leaves."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG, WILL_RETRY_TAG

from assets.demo.plan import Launch
from assets.lib import daemon
from assets.lib.settings import REPOSITORY

STARTED = dg.DagsterRunStatus.STARTED
# Of a run that a daemon of `make up` or `make demo` launched.
OURS = {GRPC_INFO_TAG: "{}"}
# Looks like a daemon in the list of processes.
_LIKE_A_DAEMON = ["import sys; sys.stdin.read()", "dagster._daemon", "run"]


@pytest.mark.parametrize("written", ["{}", "{}/", "{}/../home", "{}/../link"])
def test_a_daemon_is_found_however_its_home_is_written(tmp_path: Path, written: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    process = subprocess.Popen(
        [sys.executable, "-c", *_LIKE_A_DAEMON],
        env=os.environ | {"DAGSTER_HOME": written.format(home)},
        stdin=subprocess.PIPE,
    )
    try:
        assert daemon.is_running(home)
        assert not daemon.is_running(tmp_path)
    finally:
        process.communicate()


@dg.job
def nothing() -> None:
    pass


def test_lost_runs_have_failed_and_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:

        def lost(status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
            run = instance.create_run_for_job(nothing, status=status, tags=OURS | tags)
            daemon.abandon_runs(instance)
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            return found

        crashed = lost(STARTED)
        assert crashed.status is dg.DagsterRunStatus.FAILURE
        assert crashed.tags[WILL_RETRY_TAG] == "true"
        assert "daemon" in instance.all_logs(crashed.run_id)[-1].message
        # As `make demo` launches: nothing of it comes back after its end.
        assert lost(STARTED, **Launch("job", ()).tags("")).tags[WILL_RETRY_TAG] == "false"
        cancelled = lost(dg.DagsterRunStatus.CANCELING)
        assert cancelled.status is dg.DagsterRunStatus.CANCELED


def test_runs_of_other_launchers_are_left_alone(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        pod = instance.create_run_for_job(nothing, status=STARTED)
        daemon.abandon_runs(instance)
        found = instance.get_run_by_id(pod.run_id)
        assert found is not None
        assert found.status is STARTED


def test_the_daemon_of_another_machine_has_time_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_first_of_all_machines", lambda: contextlib.nullcontext(False))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        with daemon.running(instance, tmp_path, tmp_path / "log") as lives:
            assert lives()
        monkeypatch.setattr(daemon, "_START_SECONDS", 0.0)
        with daemon.running(instance, tmp_path, tmp_path / "log") as lives:
            assert not lives(), "it never gave a sign of life"
