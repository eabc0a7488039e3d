import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_transformer
from training.drawing import sampling
from training.drawing.sampling import Drawn

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
# As torch 2.11 is.
_OLDER = """
import torch
compile_ = torch.compile
def older(model=None, *, fullgraph=False, dynamic=None, backend="inductor", mode=None):
    return compile_(model, fullgraph=fullgraph, dynamic=dynamic, backend=backend, mode=mode)
torch.compile = older
del torch.nn.functional.linear_cross_entropy, torch.nn.LinearCrossEntropyOptions
"""


def _printed(program: str, *options: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, "--tiny", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


def test_it_runs_small_where_only_torch_is_installed() -> None:
    printed = _printed(_BARE)
    assert printed[0].startswith("bf16 and fp32 agree on ")
    images, others = printed[1:4], printed[4:]
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
    size = gpu_transformer.size_of(tiny=True)
    speed, split, graphs = gpu_transformer.lines(torch.device("cpu"), size, 1.0, ["generation"])
    assert float(speed.split()[2]) > 0
    assert speed.endswith("of the weight-read limit")
    # 4 candidates of 4x4 codes.
    assert split == "in batches of 2: 64 of 64 codes are equal, 100.00%"
    assert graphs == "0 programs compiled, CUDA graphs skipped: 0"


def test_codes_that_a_split_changes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    size, drawn = gpu_transformer.size_of(tiny=True), sampling.sample_codes

    def changed(*arguments: Any, most: int | None = None) -> Iterator[Drawn]:
        for codes, nats in drawn(*arguments, most=most):
            codes = codes.clone()
            codes[:, 0] += most is not None
            torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] += 1
            yield Drawn(codes, nats)

    monkeypatch.setattr(sampling, "sample_codes", changed)
    _, split, graphs = gpu_transformer.lines(torch.device("cpu"), size, 1.0, ["generation"])
    assert split == "in batches of 2: 60 of 64 codes are equal, 93.75%"
    # Twice all at once, then two batches.
    assert graphs.endswith("CUDA graphs skipped: 4")


def test_some_of_it_alone() -> None:
    names = [line.split("  ")[0] for line in _printed(_BARE, "--only", "dvae", "generation")]
    assert names == ["training step, bf16", "candidates: not measured: psutil"]


def test_older_torch_gives_the_same_losses() -> None:
    def losses(program: str) -> list[str]:
        return [line.split("loss ")[1] for line in _printed(program) if "loss " in line]

    assert losses(_OLDER + _BARE) == losses(_BARE)


def test_older_torch_compiles() -> None:
    program = (
        _OLDER
        + """
from benchmarks import older_torch
assert older_torch.fill_in() == ["compile(recompile_limit)", "linear_cross_entropy"]
assert older_torch.fill_in() == []
options = dict(dynamic=False, isolate_recompiles=True, recompile_limit=64, backend="eager")
assert torch.compile(lambda x: x + 1, **options)(torch.ones(2)).tolist() == [2, 2]
"""
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
