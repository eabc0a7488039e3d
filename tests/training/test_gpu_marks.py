import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_transformer
from benchmarks.step_profile import kernels
from training.drawing import sampling
from training.drawing.sampling import Drawn
from training.models.decoding import Decoder
from training.models.transformer import Transformer

ROOT = Path(__file__).parents[2]
# Every process begins with these. A machine that has torch and NumPy, and nothing else that the
# project needs.
_BARE = """
import builtins
real = builtins.__import__
missing = {"pyarrow", "PIL", "fsspec", "dagster", "apache_beam", "tokenizers", "safetensors"}
missing.add("psutil")
def only_torch(name, *rest, **options):
    if name.split(".")[0] in missing:
        raise ModuleNotFoundError(name)
    return real(name, *rest, **options)
builtins.__import__ = only_torch
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
# As a fault of CUDA does, which no program survives.
_FAULT = """
import os, signal, sys
if sys.orig_argv[-2:] == ["--only", "generation"]:
    os.kill(os.getpid(), signal.SIGABRT)
"""
_HEADS = "CPU, torch "


def _done(folder: Path, start: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The program, and what it starts, where `start` is run at the start of every process."""
    (folder / "sitecustomize.py").write_text(start)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_marks", "--tiny", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _printed(folder: Path, start: str, *options: str) -> list[str]:
    done = _done(folder, start, *options)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(_HEADS)]


def test_it_runs_small_where_only_torch_is_installed(tmp_path: Path) -> None:
    done = _done(tmp_path, _BARE)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    starts = [i for i, line in enumerate(printed) if line.startswith(_HEADS)]
    parts = [printed[a + 1 : b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    updates, candidates, patterns, encoded, trained = parts
    losses = [x.split("loss ")[1].split(" to ") for x in updates if x.startswith("update")]
    assert [float(last) < float(first) for first, last in losses] == [True, True]
    assert all("0 of 6 skipped" in line for line in updates if line.startswith("update"))
    shares = [float(line.split("%")[0]) for line in updates if line.startswith("  ")]
    assert len(shares) == 10
    assert 0 < sum(shares) <= 100
    assert candidates == ["candidates: not measured: psutil"]
    errors = [float(part.split()[0]) for line in patterns for part in line.split("dense ")[1:]]
    assert len(errors) == 4
    assert max(errors) < 1e-5
    assert encoded.pop(0).startswith("bf16 and fp32 agree on ")
    images = encoded + trained
    names = [line.split("  ")[0] for line in images]
    assert names == ["encode, fp32", "encode, bf16", "training step, bf16"]
    assert all(float(line.split()[-2]) > 0 for line in images)


def test_a_part_that_fails_costs_no_other(tmp_path: Path) -> None:
    done = _done(tmp_path, _FAULT, "--only", "dvae", "generation", "attention")
    assert done.returncode == 1
    heads = [line.split("  ")[0].split(",")[0] for line in done.stdout.splitlines()]
    patterns = ["CPU", *["attention"] * 4]
    assert heads == ["generation: failed with status -6", *patterns, "CPU", "training step"]


def test_candidates_are_drawn_where_the_packages_are() -> None:
    size = gpu_transformer.size_of(tiny=True)
    speed, split, graphs = gpu_transformer.lines(torch.device("cpu"), size, 1.0, "generation")
    assert float(speed.split()[2]) > 0
    assert "of the weight-read limit, " in speed
    assert speed.endswith("of what reading weights and caches or the products allow")
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
    _, split, graphs = gpu_transformer.lines(torch.device("cpu"), size, 1.0, "generation")
    assert split == "in batches of 2: 60 of 64 codes are equal, 93.75%"
    # Twice all at once, then two batches.
    assert graphs.endswith("CUDA graphs skipped: 4")


def test_a_steps_work_is_counted() -> None:
    size = gpu_transformer.size_of(tiny=True)
    model = Transformer(size.config, **size.tokens).eval()
    weights, caches, flop = gpu_transformer.step_work(model, size.candidates)
    with torch.inference_mode():
        decoder = Decoder(model, 1, size.candidates)
        used = [p for m in (*model.blocks, model.image_head) for p in m.parameters()]
        assert weights == sum(p.nbytes for p in used)
        # A row and the convolution read all of their caches, a column one of four columns.
        pairs = zip(decoder.caches, (1, 4, 1), strict=True)
        assert caches == sum(c.text.nbytes + c.image.nbytes // part for c, part in pairs)
        codes, at = torch.zeros(size.candidates, dtype=torch.long), torch.tensor([3])
        with FlopCounterMode(display=False) as counted:
            decoder(codes, at)
    products = counted.get_flop_counts()["Global"]
    assert flop == products[torch.ops.aten.addmm]


def test_a_kernels_time_counts_once() -> None:
    def event(name: str, device: DeviceType, annotation: bool = False) -> FunctionEventAvg:
        found = FunctionEventAvg()
        found.key, found.device_type, found.is_user_annotation = name, device, annotation
        found.self_device_time_total = 5
        return found

    events = [event("aten::mm", DeviceType.CPU), event("nvjet", DeviceType.CUDA)]
    events.append(event("Optimizer.step", DeviceType.CUDA, annotation=True))
    assert kernels(events) == {"nvjet": 5}


def test_older_torch_gives_the_same_losses(tmp_path: Path) -> None:
    def losses(start: str) -> list[str]:
        printed = _printed(tmp_path, start, "--only", "update")
        return [line.split("loss ")[1] for line in printed if "loss " in line]

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
