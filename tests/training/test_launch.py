import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WORKER = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
pathlib.Path(sys.argv[1], os.environ["RANK"]).touch()
time.sleep(60)
"""
ROOT = Path(__file__).parents[2]


def test_a_stopped_launch_ends_with_the_signals_status(tmp_path: Path) -> None:
    worker, ready = tmp_path / "worker.py", tmp_path / "ready"
    worker.write_text(WORKER)
    ready.mkdir()
    arguments = ["--standalone", "--nproc-per-node=2", str(worker), str(ready)]
    program = subprocess.Popen(
        [sys.executable, "-m", "training.launch", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while len(list(ready.iterdir())) < 2:
        assert program.poll() is None, program.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
