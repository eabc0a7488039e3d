"""A stand-in for a training program: reports, checkpoints on SIGTERM, has an own-session child."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dagster_pipes import PipesContext, open_dagster_pipes
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("finish", "count", "fail", "wait", "stubborn"))
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    if arguments.mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # As torchrun does: a worker in a session of its own, beyond the reach of killpg.
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )

    def checkpoint(_signal: int, _frame: object) -> None:
        (arguments.directory / "checkpoint").write_text("saved")
        worker.terminate()
        sys.exit(143)

    if arguments.mode != "stubborn":
        signal.signal(signal.SIGTERM, checkpoint)
    pids = {"child": os.getpid(), "worker": worker.pid, "threads": os.environ["OMP_NUM_THREADS"]}
    picture = arguments.directory / "update-3.png"
    Image.new("RGB", (9, 9), "red").save(picture)
    with open_dagster_pipes():
        context = PipesContext.get()
        if arguments.mode != "count":
            context.report_custom_message(
                {"kind": "picture", "step": 3, "name": "reconstructions", "path": str(picture)}
            )
        for step in range(1, 4):
            metrics = {} if arguments.mode == "count" else {"loss": 1 / step}
            context.report_custom_message(
                {"kind": "progress", "step": step, "updates": 3, "metrics": metrics}
            )
        (arguments.directory / "pids.json").write_text(json.dumps(pids))
        while arguments.mode in ("wait", "stubborn"):
            time.sleep(0.1)
    worker.terminate()
    if arguments.mode == "fail":
        sys.exit("the loss is not a number: lower the step size")


if __name__ == "__main__":
    main()
