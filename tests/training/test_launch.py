"""Several processes under `training.launch`: stopped, and one of them lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_training
from tiny_training import Finished

from assets.lib.supervisor import CHECKPOINT_SECONDS
from training import train_dalle
from training.reporting import read_metrics

WORKER = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
seconds = os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(seconds)
if os.environ["RANK"] == sys.argv[2]:
    sys.exit(2)
time.sleep(60)
"""


def launched(*program: object) -> subprocess.Popen[str]:
    """Two processes of a program."""
    arguments = ["-m", "training.launch", "--standalone", "--nproc-per-node=2", *program]
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=tiny_training.ROOT,
        env=tiny_training.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("leaves", ["1", "none"])
def test_a_launch_ends_with_the_status_of_what_ended_it(leaves: str, tmp_path: Path) -> None:
    worker, ready = tmp_path / "worker.py", tmp_path / "ready"
    worker.write_text(WORKER)
    ready.mkdir()
    program = launched(worker, ready, leaves)
    until = time.monotonic() + 60
    while len(list(ready.iterdir())) < 2:
        assert program.poll() is None or leaves == "1", program.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    if leaves == "none":
        program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == (2 if leaves == "1" else 128 + signal.SIGTERM)
    assert "Traceback" not in errors
    # That long torchrun waits for their checkpoint; its own 30 seconds would cut large ones.
    assert {path.read_text() for path in ready.iterdir()} == {"600"}
    # And as a step of Dagster it has a little longer.
    assert CHECKPOINT_SECONDS > 600
    if leaves == "1":
        assert errors == "error: process 1 ended with status 2, as it says above\n"


ENDS = """
import os, sys, time
if os.environ["RANK"] == "0":
    sys.exit(75)
time.sleep(60)
"""


def test_one_that_torchrun_stopped_while_it_ended_was_not_stopped_from_outside(
    tmp_path: Path,
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(ENDS)
    program = launched(worker)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert errors.splitlines()[-1] == "error: process 1 ended, as it says above"


STARTS = """
from training import cli, runtime
from training.errors import InputError

def main() -> None:
    process = runtime.start()
    runtime.end_all(InputError("there is no room") if process.first else None)

cli.run(main)
"""


def test_all_end_with_the_status_of_a_problem_that_one_has(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(STARTS)
    for _ in range(3):  # whoever is noticed first
        program = launched(worker)
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 2, errors
        assert errors.count("error: there is no room") == 1


def test_who_cannot_join_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(STARTS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # or NCCL would join them
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    program = launched(worker)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    found = [line for line in errors.splitlines() if "cannot join the others: " in line]
    assert found
    assert "nowhere0" in found[0]
    assert "Traceback" not in errors


def test_the_help_begins_with_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.launch", "--help"],
        cwd=tiny_training.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    usage, empty, about, *_ = done.stdout.splitlines()
    assert usage.startswith("usage: python -m training.launch [OPTION OF TORCHRUN]...")
    assert empty == ""
    assert about.startswith("torchrun that ends with one sentence")
    assert "--nproc-per-node" in done.stdout


def test_a_lost_worker_ends_the_run_and_one_process_goes_on(
    finished: Finished, tiny_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "dalle"
    program = launched(
        Path(tiny_training.__file__), "training.train_dalle", "--recipe", tiny_recipe,
        "--dataset", finished.dataset, "--output", output,
    )  # fmt: skip
    tiny_training.wait_for_update(program, output, 3)
    workers = psutil.Process(program.pid).children(recursive=True)
    (lost,) = (w for w in workers if w.environ().get("RANK") == "1")
    os.kill(lost.pid, signal.SIGKILL)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGKILL
    assert "Traceback" not in errors
    survivor, last = errors.strip().splitlines()
    assert "process 0 lost the connection" in survivor
    assert last.startswith("error: process 1 was ended by SIGKILL")
    assert "goes on from its newest checkpoint" in last
    assert len(workers) == 2
    assert not any(w.is_running() for w in workers)

    train_dalle.train(tiny_recipe, finished.dataset, output)
    assert "going on from update" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(output)] == list(range(1, 61))
