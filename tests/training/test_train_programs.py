"""Both training programs from end to end: interrupted, killed, resumed, finished."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
from safetensors.torch import load_file
from tiny_training import Finished

from pipelines.layout import Layout
from training import train_dalle, train_dvae
from training.image_tokenizer import image_tokenizer_info, load_image_tokenizer
from training.loop import Stopped
from training.reporting import METRICS, read_metrics


def assert_same_weights(one: Path, other: Path) -> None:
    weights, others = (load_file(d / "final/model.safetensors") for d in (one, other))
    assert weights.keys() == others.keys()
    different = [name for name, w in weights.items() if not torch.equal(w, others[name])]
    assert different == []


def checkpoints(output: Path) -> list[str]:
    return sorted(p.name for p in (output / "checkpoints").glob("update-*"))


def mean(output: Path, name: str, steps: slice) -> float:
    return float(np.mean([line[name] for line in read_metrics(output)][steps]))


def test_the_dvae_learns_and_leaves_its_files(finished: Finished) -> None:
    summary = json.loads((finished.dvae / "final/summary.json").read_text())
    assert summary["updates"] == 60
    assert summary["psnr_db"] > 8
    assert 1 <= summary["codebook_perplexity"] <= summary["codebook_used"] <= 32
    assert mean(finished.dvae, "nll", slice(-10, None)) < mean(finished.dvae, "nll", slice(10))
    for name in ("reconstructions.png", "curves.png", "final/_SUCCESS"):
        assert (finished.dvae / name).stat().st_size > 0
    assert not (finished.dvae / "checkpoints").exists()


def test_the_transformer_learns_and_leaves_its_files(finished: Finished) -> None:
    summary = json.loads((finished.dalle / "final/summary.json").read_text())
    assert summary["updates"] == 60
    assert 0 < summary["validation_nats_image"] < 1.2 * math.log(32)
    assert summary["held_out_gain"] == pytest.approx(
        summary["held_out_nats_shuffled"] - summary["held_out_nats"]
    )
    for name in ("text", "image"):
        assert mean(finished.dalle, name, slice(-10, None)) < mean(finished.dalle, name, slice(10))
    assert (finished.dalle / "curves.png").stat().st_size > 0


def test_the_dvae_is_the_image_tokenizer_it_says_it_is(finished: Finished) -> None:
    info = image_tokenizer_info(str(finished.dvae))
    assert (info.image_size, info.grid, info.vocabulary) == (16, 4, 32)
    tokenizer = load_image_tokenizer(str(finished.dvae))
    assert tokenizer.sha256 == info.sha256
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    codes = tokenizer(images)
    assert (codes.shape, codes.dtype) == ((70, 4, 4), np.uint16)
    assert np.array_equal(codes[65:], tokenizer(images[65:]))


def test_the_demo_dvae_stopped_by_sigterm_ends_as_if_never_stopped(tmp_path: Path) -> None:
    pairs = tiny_training.write_pairs(Layout(str(tmp_path / "data")), rows=40)
    updates = 6
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    program = tiny_training.start(
        "training.train_dvae", "--recipe", "demo", "--pairs", pairs, "--output", stopped,
        "--updates", updates, tiny_recipe=False,
    )  # fmt: skip
    tiny_training.wait_for_update(program, stopped, 2)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (143, "")
    assert len(checkpoints(stopped)) == 1
    assert checkpoints(stopped)[0] < f"update-{updates:09d}"
    assert not (stopped / "final").exists()

    train_dvae.train("demo", [str(pairs)], stopped, updates)
    train_dvae.train("demo", [str(pairs)], whole, updates)
    assert_same_weights(stopped, whole)
    assert [line["step"] for line in read_metrics(stopped)] == list(range(1, updates + 1))


def test_a_killed_dvae_run_ends_as_if_never_killed(
    finished: Finished, tiny_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "dvae"
    program = tiny_training.start(
        "training.train_dvae", "--recipe", tiny_recipe, "--pairs", finished.pairs,
        "--output", output,
    )  # fmt: skip
    tiny_training.wait_for_update(program, output, 3)
    program.kill()
    program.communicate(timeout=60)
    assert 1 <= len(checkpoints(output)) <= 3
    assert not (output / "final").exists()
    # What a kill in the middle of a line leaves behind.
    with open(output / METRICS, "a") as stream:
        stream.write('{"step": 60, "lo')
    train_dvae.train(tiny_recipe, [str(finished.pairs)], output)
    assert "going on from update" in capsys.readouterr().out
    assert_same_weights(output, finished.dvae)
    assert [line["step"] for line in read_metrics(output)] == list(range(1, 61))


def test_a_stopped_transformer_run_ends_as_if_never_stopped(
    finished: Finished, tiny_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "dalle"
    program = tiny_training.start(
        "training.train_dalle", "--recipe", tiny_recipe, "--dataset", finished.dataset,
        "--output", output,
    )  # fmt: skip
    tiny_training.wait_for_update(program, output, 3)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (130, "")
    assert not (output / "final").exists()
    train_dalle.train(tiny_recipe, finished.dataset, output)
    assert "going on from update" in capsys.readouterr().out
    assert_same_weights(output, finished.dalle)


def test_a_finished_run_returns_at_once(
    finished: Finished,
    tiny_recipe: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train_dvae.DVAETrainer, "__init__", unwanted)
    monkeypatch.setattr(train_dalle.DALLETrainer, "__init__", unwanted)
    train_dvae.train(tiny_recipe, [str(finished.pairs)], finished.dvae)
    train_dalle.train(tiny_recipe, finished.dataset, finished.dalle)
    assert capsys.readouterr().out.count("is up to date") == 2
    # Another number of updates is another run.
    with pytest.raises(AssertionError, match="trained again"):
        train_dalle.train(tiny_recipe, finished.dataset, finished.dalle, updates=3)


def test_a_signal_in_the_first_update_is_not_lost(
    finished: Finished, tiny_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = train_dvae.DVAETrainer.update

    def interrupted(self: train_dvae.DVAETrainer, step: int) -> dict[str, torch.Tensor]:
        signal.raise_signal(signal.SIGTERM)
        return update(self, step)

    monkeypatch.setattr(train_dvae.DVAETrainer, "update", interrupted)
    with pytest.raises(Stopped) as stopped:
        train_dvae.train(tiny_recipe, [str(finished.pairs)], tmp_path)
    assert stopped.value.code == 143
    assert checkpoints(tmp_path) == ["update-000000001"]


def test_processes_share_rows_and_differ_in_noise(finished: Finished, tiny_recipe: str) -> None:
    from pipelines.storage import list_files
    from training.recipes import recipe
    from training.runtime import Runtime
    from training.train_dvae import DVAETrainer

    files = list_files(str(finished.pairs), ".parquet")
    # World 1, so that no process group is needed; the rank decides about the noise.
    one, other = (
        DVAETrainer(recipe(tiny_recipe), files, Runtime(rank, 1, torch.device("cpu")), "x")
        for rank in (0, 1)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )
    assert torch.equal(one._gumbel(7, 2), one._gumbel(7, 2))
    assert not torch.equal(one._gumbel(7, 2), other._gumbel(7, 2))
    assert not torch.equal(one._gumbel(7, 2), one._gumbel(8, 2))
    noise = one._gumbel(0, 200)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.05)
