"""A mistake of the caller is one sentence on stderr and exit status 2."""

import dataclasses
import errno
import shutil
import sys
from pathlib import Path

import pytest
import tiny_training
import torch
from tiny_training import Finished
from torch.distributed import DistBackendError

from pipelines.layout import Layout
from training import cli, recipes
from training.runtime import PEER_LOST

# Programs of both models, and what their options for the transformer and the output are called.
PROGRAMS = [
    ("training.sample", "--checkpoint", "--out"),
    ("training.evaluate", "--dalle", "--output"),
]


def assert_one_sentence(found: tuple[int, str], expected: str) -> None:
    status, errors = found
    assert status == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert expected in errors


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    program = tiny_training.start(
        "training.train_dvae", "--recipe", "huge", "--pairs", tmp_path, "--output", tmp_path / "o",
        tiny_recipe=False,
    )  # fmt: skip
    _, errors = program.communicate(timeout=60)
    known = "the recipes are demo, small, cc3m_1b, paper_12b"
    assert_one_sentence((program.returncode, errors), f"unknown recipe 'huge'; {known}")
    assert not (tmp_path / "o").exists()


def test_missing_pairs(run: tiny_training.Runner, tmp_path: Path) -> None:
    found = run(
        "training.train_dvae", "--recipe", "demo", "--pairs", tmp_path / "none", "--output", "o"
    )
    assert_one_sentence(found, f"{tmp_path}/none is not finished (no _SUCCESS); finish the stage")


def test_too_few_pairs(run: tiny_training.Runner, tiny_recipe: str, tmp_path: Path) -> None:
    pairs = tiny_training.write_pairs(Layout(str(tmp_path)), rows=1)
    output = tmp_path / "o"
    found = run(
        "training.train_dvae", "--recipe", tiny_recipe, "--pairs", pairs, "--output", output
    )
    assert_one_sentence(found, "rows of the train split, at least 2 are needed; crawl more pairs")


def test_missing_dataset(run: tiny_training.Runner, tmp_path: Path) -> None:
    for recipe, expected in (("demo", "holds no published version"), ("huge", "unknown recipe")):
        found = run(
            "training.train_dalle", "--recipe", recipe, "--dataset", tmp_path, "--output", tmp_path
        )
        assert_one_sentence(found, expected)


def test_dataset_of_another_grid(
    run: tiny_training.Runner, finished: Finished, tmp_path: Path
) -> None:
    found = run(
        "training.train_dalle", "--recipe", "paper_12b", "--dataset", finished.dataset,
        "--output", tmp_path,
    )  # fmt: skip
    assert_one_sentence(found, "has grid 4, recipe paper_12b needs 32; publish a dataset for")


def test_a_flipped_bit_of_the_tokens(
    run: tiny_training.Runner, finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    folder, output = tmp_path / "v=copy", tmp_path / "o"
    shutil.copytree(finished.dataset, folder)
    train = ("training.train_dalle", "--recipe", tiny_recipe, "--output", output, "--dataset")
    (part,) = folder.glob("tokens/*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    found = run(*train, folder / "manifest.json")
    assert_one_sentence(found, f"{part} has sha256")
    assert_one_sentence(found, "copy the file again, or publish the dataset again")
    assert not (output / "checkpoints").exists()


def test_a_tokenizer_with_more_ids_than_the_recipe_takes(
    run: tiny_training.Runner, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tiny_training.tiny()
    smaller = dataclasses.replace(recipe, text=dataclasses.replace(recipe.text, vocabulary=300))
    monkeypatch.setitem(recipes.RECIPES, "smaller", lambda: smaller)
    found = run(
        "training.train_dalle", "--recipe", "smaller", "--dataset", finished.dataset,
        "--output", tmp_path,
    )  # fmt: skip
    assert_one_sentence(found, "has 320 ids, recipe tiny takes at most 300; encode with")


def test_a_gpu_without_enough_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nAnd more.")

    monkeypatch.setattr(sys, "argv", ["full"])
    with pytest.raises(SystemExit) as end:
        cli.run(full)
    found = (int(str(end.value.code)), capsys.readouterr().err)
    assert_one_sentence(found, "error: CUDA out of memory; take fewer rows at a time")
    assert_one_sentence(found, "--micro-batch, --candidates), --recompute, or several")


@pytest.mark.parametrize(("module", "model", "output"), PROGRAMS)
def test_missing_model(
    run: tiny_training.Runner,
    finished: Finished,
    module: str,
    model: str,
    output: str,
    tmp_path: Path,
) -> None:
    found = run(
        module, model, tmp_path / "none", "--dvae", finished.dvae,
        "--dataset", finished.dataset, output, tmp_path,
    )  # fmt: skip
    assert_one_sentence(found, f"{tmp_path}/none holds no finished model; train it first")


def test_numbers_out_of_range(
    run: tiny_training.Runner, finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    models = (
        *("--checkpoint", finished.dalle, "--dvae", finished.dvae),
        *("--dataset", finished.dataset, "--out", tmp_path),
    )
    found = run("training.sample", *models, "--temperature", 0)
    assert_one_sentence(found, "temperature must be within 1e-06 and 1e+06, got 0.0")
    for option in ("--candidates", "--limit"):
        status, errors = run("training.sample", *models, option, 0)
        assert status == 2
        assert option in errors
    assert list(tmp_path.iterdir()) == []


def test_a_dvae_that_did_not_make_the_codes(
    run: tiny_training.Runner, finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    from training import train_dvae

    train_dvae.train(tiny_recipe, [str(finished.pairs)], tmp_path / "dvae", updates=1)
    for module, model, output in PROGRAMS:
        found = run(
            module, model, finished.dalle, "--dvae", tmp_path / "dvae",
            "--dataset", finished.dataset, output, tmp_path / "o",
        )  # fmt: skip
        assert_one_sentence(found, "were made by the dVAE")


@pytest.mark.parametrize("module", ["train_dvae", "train_dalle", "train_contrastive"])
def test_no_training_has_less_than_no_updates(
    run: tiny_training.Runner, module: str, tmp_path: Path
) -> None:
    status, errors = run(f"training.{module}", "--output", tmp_path, "--updates", -3)
    assert status == 2
    assert "--updates" in errors
    assert "greater than or equal to 0" in errors


def test_an_output_that_is_a_file(
    run: tiny_training.Runner, finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    (tmp_path / "model").touch()
    found = run(
        "training.train_dalle", "--recipe", tiny_recipe, "--dataset", finished.dataset,
        "--output", tmp_path / "model",
    )  # fmt: skip
    assert_one_sentence(found, f"File exists: '{tmp_path}/model'")


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (
            RuntimeError("[gloo/transport/pair.cc:547] closed"),
            PEER_LOST,
            "process 0",
        ),
        (DistBackendError("NCCL communicator was aborted"), PEER_LOST, "lost the connection"),
    ],
)
def test_what_may_pass_is_one_sentence_and_no_wrong_use(
    failure: Exception,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing() -> None:
        raise failure

    monkeypatch.setattr(sys, "argv", ["failing"])
    with pytest.raises(SystemExit) as end:
        cli.run(failing)
    errors = capsys.readouterr().err
    assert end.value.code == status
    assert errors.startswith("error: ")
    assert said in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_a_defect_keeps_its_traceback(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise kind("a defect")

    monkeypatch.setattr(sys, "argv", ["broken"])
    with pytest.raises(kind, match="a defect"):
        cli.run(broken)
