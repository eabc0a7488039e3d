"""Loading the code location, which every step, sensor and command pays, beside Dagster alone."""

import subprocess
import sys
from statistics import median

from benchmarks.marks import Mark

_ROUNDS = 9


def code_location() -> Mark:
    """CPU seconds of new processes that import all definitions, and Dagster alone, in turn."""
    rounds = [
        [_seconds(name) for name in ("assets.definitions", "dagster")] for _ in range(_ROUNDS)
    ]
    ours, peer = (median(spent) for spent in zip(*rounds, strict=True))
    return Mark("code location loaded", ours, peer, "import dagster", None)


def _seconds(module: str) -> float:
    code = f"import time, {module}; print(time.process_time())"
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))
