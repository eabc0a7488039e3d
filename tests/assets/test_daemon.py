"""Which daemon is ours, and which runs a killed one leaves."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import GRPC_INFO_TAG

from assets.lib import daemon

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


def test_runs_of_other_launchers_are_left_alone(tmp_path: Path) -> None:
    @dg.job
    def nothing() -> None:
        pass

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        started = dg.DagsterRunStatus.STARTED
        ours = instance.create_run_for_job(nothing, status=started, tags={GRPC_INFO_TAG: "{}"})
        pod = instance.create_run_for_job(nothing, status=started)
        daemon.abandon_runs(instance)
        runs = [instance.get_run_by_id(run.run_id) for run in (ours, pod)]
        assert [run.status for run in runs if run] == [dg.DagsterRunStatus.CANCELED, started]


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
