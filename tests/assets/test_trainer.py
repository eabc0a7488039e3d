"""The launcher, with a real child process that has a worker in a session of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from assets.demo.terminal import Progress
from assets.lib import trainer
from assets.lib.trainer import REPOSITORY, TrainingProgram


@pytest.fixture(autouse=True)
def _child_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{REPOSITORY}")


def _execute(mode: str, directory: Path, patience: float, instance: dg.DagsterInstance):
    @dg.asset
    def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        program = TrainingProgram("child_program", (mode, str(directory)))
        trainer.run(context, program, patience=patience, observe_every=0.0)
        return dg.MaterializeResult()

    return dg.materialize([model], instance=instance, raise_on_error=False)


def _pids(directory: Path) -> dict[str, int]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if (directory / "pids.json").exists():
            return json.loads((directory / "pids.json").read_text())
        time.sleep(0.05)
    raise AssertionError("the child did not start")


def _gone(*pids: int, within: float) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not any(psutil.pid_exists(p) and _runs(p) for p in pids):
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _interrupt_when_started(directory: Path) -> threading.Thread:
    def interrupt() -> None:
        _pids(directory)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    return thread


def test_progress_becomes_observations(tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        assert _execute("finish", tmp_path, 5, instance).success
        records = instance.fetch_observations(dg.AssetKey("model"), limit=10).records
    seen = [record.asset_observation.metadata for record in records]
    assert seen
    assert seen[0]["step"].value == 3
    assert seen[0]["loss"].value == pytest.approx(1 / 3)
    assert seen[0]["reconstructions"].value.startswith("![reconstructions](data:image/png;base64,")
    assert int(_pids(tmp_path)["threads"]) >= 1


def test_progress_without_figures_is_in_the_log_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with dg.instance_for_test() as instance:
        result = _execute("count", tmp_path, 5, instance)
        assert result.success
        assert not instance.fetch_observations(dg.AssetKey("model"), limit=1).records
        entries = instance.all_logs(result.run_id)
    capsys.readouterr()
    progress = Progress(total=1)
    for entry in entries:
        progress(entry)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" {8}model: update \d of 3", first)
    assert second.startswith("[ 1/1] model")


def test_failure_shows_the_last_lines(tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        result = _execute("fail", tmp_path, 5, instance)
    assert not result.success
    failure = result.failure_data_for_node("model")
    assert failure is not None
    text = failure.user_failure_data.description
    assert "status 1" in text
    assert "lower the step size" in text


@pytest.mark.parametrize(("mode", "patience"), [("wait", 20.0), ("stubborn", 1.0)])
def test_cancel_stops_everything(tmp_path: Path, mode: str, patience: float) -> None:
    interrupter = _interrupt_when_started(tmp_path)
    with dg.instance_for_test() as instance:
        started = time.monotonic()
        assert not _execute(mode, tmp_path, patience, instance).success
    interrupter.join()
    assert time.monotonic() - started < 15
    pids = _pids(tmp_path)
    assert _gone(pids["child"], pids["worker"], within=1.0)
    assert (tmp_path / "checkpoint").exists() == (mode == "wait")


def test_kill_minus_nine_of_the_step_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import dagster as dg; from test_trainer import _execute; "
        "from pathlib import Path; import sys\n"
        "_execute('wait', Path(sys.argv[1]), 5.0, dg.DagsterInstance.ephemeral())"
    )
    step = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY)
    pids = _pids(tmp_path)
    step.kill()
    step.wait()
    assert _gone(pids["child"], pids["worker"], within=10.0)
    assert (tmp_path / "checkpoint").exists()
