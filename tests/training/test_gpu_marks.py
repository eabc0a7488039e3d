import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import gpu_transformer

ROOT = Path(__file__).parents[2]
# A machine that has torch and NumPy, and nothing else that the project needs.
_BARE = """
import builtins, runpy, sys
real = builtins.__import__
missing = {"pyarrow", "PIL", "fsspec", "dagster", "apache_beam", "tokenizers", "safetensors"}
missing.add("psutil")
def only_torch(name, *rest, **options):
    if name.split(".")[0] in missing:
        raise ModuleNotFoundError(name)
    return real(name, *rest, **options)
builtins.__import__ = only_torch
sys.argv = ["gpu_marks", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu_marks", run_name="__main__")
"""


def test_it_runs_small_where_only_torch_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BARE, "--tiny"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()[2:]
    images, others = printed[:3], printed[3:]
    names = [line.split("  ")[0] for line in images]
    assert names == ["encode, fp32", "encode, bf16", "training step, bf16"]
    assert all(float(line.split()[-2]) > 0 for line in images)
    errors = [float(part.split()[0]) for line in others[:4] for part in line.split("dense ")[1:]]
    assert len(errors) == 4
    assert max(errors) < 1e-5
    updates = [line for line in others if line.startswith("update")]
    losses = [line.split("loss ")[1].split(" to ") for line in updates]
    assert [float(last) < float(first) for first, last in losses] == [True, True]
    shares = [float(line.split("%")[0]) for line in others if line.startswith("  ")]
    assert len(shares) == 10
    assert 0 < sum(shares) <= 100
    assert others[-1] == "candidates: not measured: psutil"


def test_candidates_are_drawn_where_the_packages_are() -> None:
    line = gpu_transformer._generation(torch.device("cpu"), gpu_transformer.size_of(tiny=True))
    assert float(line.split()[2]) > 0
    assert line.endswith("of the weight-read limit")
