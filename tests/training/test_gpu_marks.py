import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A machine that has torch and NumPy, and nothing else that the project needs.
_BARE = """
import builtins, runpy, sys
real = builtins.__import__
missing = {"pyarrow", "PIL", "fsspec", "dagster", "apache_beam", "tokenizers", "safetensors"}
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
    names = [line.split("  ")[0] for line in done.stdout.splitlines()[2:]]
    assert names == ["encode, fp32", "encode, bf16", "training step, bf16"]
    assert all(float(line.split()[-2]) > 0 for line in done.stdout.splitlines()[2:])
