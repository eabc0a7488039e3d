"""Stage one with a loss scale, in two processes, and with a collapsed codebook."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch
from safetensors.torch import load_file

from pipelines.layout import Layout
from pipelines.storage import list_files
from training import recipes, train_dvae
from training.checkpoints import checkpoint
from training.dvae.loss_scale import MixedPrecision, compute_format
from training.dvae.trainer import DVAETrainer, Execution
from training.errors import InputError
from training.reporting import read_metrics
from training.runtime import Runtime

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An odd number of rows, so that two processes do not share windows evenly."""
    return tiny_training.write_pairs(Layout(str(tmp_path_factory.mktemp("data"))), rows=37)


def trainer(pairs: Path, precision: str, execution: Execution = Execution()) -> DVAETrainer:  # noqa: B008
    tiny = tiny_training.tiny()
    training = dataclasses.replace(tiny.dvae_training, precision=precision)
    recipe = dataclasses.replace(tiny, dvae_training=training)
    files = list_files(str(pairs), ".parquet")
    return DVAETrainer(recipe, files, Runtime(0, 1, CPU), "x", execution)


def test_formats() -> None:
    assert compute_format("auto", CPU) is torch.float32
    assert compute_format("bf16", CPU) is torch.bfloat16
    with pytest.raises(InputError, match="unknown precision 'int4'; choose auto, fp32, bf16, fp16"):
        compute_format("int4", CPU)


def test_an_infinite_gradient_leaves_the_update_out_and_halves_the_scale() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    mixed = MixedPrecision("fp16", CPU)
    first = float(mixed.reported()["loss_scale"])
    norm = mixed.step(weight.sum(), optimizer, float("inf"))
    assert float(norm) == pytest.approx(3**0.5)  # without the scale
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))
    mixed.step((weight * float("inf")).sum(), optimizer, float("inf"))
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))
    assert float(mixed.reported()["loss_scale"]) == first / 2
    other = MixedPrecision("fp16", CPU)
    other.load(json.loads(json.dumps(mixed.state())))
    assert other.state() == mixed.state()
    assert MixedPrecision("bf16", CPU).reported() == {}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_goes_on_as_if_never_stopped(
    pairs: Path, tmp_path: Path, precision: str
) -> None:
    whole = trainer(pairs, precision)
    for step in range(4):
        if step == 2:
            checkpoint.save(tmp_path, whole.save(2))
        figures = whole.update(step)
    resumed = trainer(pairs, precision, Execution(recompute=True))
    found = checkpoint.newest(tmp_path, "x")
    assert found is not None
    resumed.load(found)
    for step in (2, 3):
        again = resumed.update(step)
    assert torch.equal(figures["loss"], again["loss"])
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert ("loss_scale" in figures) == (precision == "fp16")


def torchrun(pairs: Path, output: Path, updates: int) -> subprocess.Popen[str]:
    """The program in two processes, with the tiny recipe."""
    support = tiny_training.ROOT / "tests/support/tiny_training.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["--recipe", "tiny", "--pairs", pairs, "--output", output, "--updates", updates]
    program = [*command, support, "training.train_dvae", *arguments]
    return subprocess.Popen(
        [str(word) for word in program],
        env=tiny_training.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_stopped_and_resumed_end_as_if_never_stopped(
    pairs: Path, tmp_path: Path
) -> None:
    updates = 30  # more than three epochs of 37 rows
    program = torchrun(pairs, tmp_path / "whole", updates)
    assert program.wait(timeout=120) == 0, program.communicate()[0]
    program = torchrun(pairs, tmp_path / "stopped", updates)
    tiny_training.wait_for_update(program, tmp_path / "stopped", 3)
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=120)
    assert not (tmp_path / "stopped/final").exists()
    program = torchrun(pairs, tmp_path / "stopped", updates)
    output, _ = program.communicate(timeout=120)
    assert program.returncode == 0, output
    assert "going on from update" in output
    one, other = (
        load_file(tmp_path / name / "final/model.safetensors") for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["step"] for line in read_metrics(tmp_path / "stopped")] == list(range(1, 31))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_costs_one_update(value: float) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    mixed = MixedPrecision("fp32", CPU)
    before = weight.detach().clone()
    assert not mixed.step((weight * value).sum(), optimizer, clip=20.0).isfinite()
    assert torch.equal(weight, before)
    assert mixed.step((weight * 2).sum(), optimizer, clip=20.0).isfinite()
    assert not torch.equal(weight, before)
    assert weight.isfinite().all()


def test_a_run_reports_bounds_codebook_and_pictures(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_training.tiny()
    training = dataclasses.replace(tiny.dvae_training, validate_every=4, least_share=4.0)
    recipe = dataclasses.replace(tiny, dvae_training=training)
    monkeypatch.setitem(recipes.RECIPES, "tiny", lambda: recipe)
    train_dvae.train("tiny", [str(pairs)], tmp_path, 8)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines if "true" in line] == [4, 8]
    last = lines[-1]
    assert last["temperature"] == pytest.approx(recipe.dvae_training.temperature.start, rel=0.05)
    assert 1 <= last["perplexity"] <= 32 - last["dead_codes"]
    assert {"relaxed", "validation_perplexity", "kl_weight", "images_per_s"} <= last.keys()
    pictures = sorted(p.name for p in (tmp_path / "progress").iterdir())
    assert pictures == ["update-000000004.png", "update-000000008.png"]
    summary = json.loads((tmp_path / "final/summary.json").read_text())
    assert summary["elbo_gap"] == pytest.approx(summary["true"] - summary["relaxed"])
    # A codebook below what the recipe asks for is said to have collapsed, with what to do.
    assert "Let the temperature fall over more updates" in capsys.readouterr().err
