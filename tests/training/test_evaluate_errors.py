"""What cannot be evaluated is one sentence, before anything is drawn or written."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_training import Finished
from typer.testing import CliRunner

from training import cli, evaluate
from training.alone import only_program
from training.errors import InputError


@pytest.mark.parametrize("option", ["--pictures", "--coco-captions", "--cub-captions"])
@pytest.mark.parametrize("number", [0, -3])
def test_a_number_of_pictures_is_positive(option: str, number: int) -> None:
    app = cli.new_app()
    app.command()(evaluate.evaluate)
    models = [w for name in ("dalle", "dvae", "dataset", "output") for w in (f"--{name}", "none")]
    found = CliRunner().invoke(app, [*models, option, str(number)])
    assert found.exit_code == 2
    assert f"'{option}': Input should be greater than or equal to 2" in found.output


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("candidates", "nothing chooses among 4 candidates; give --rerank"),
        ("coco", "annotations/captions_val2014.json is missing; unpack"),
        ("cub", "images.txt is missing; --cub takes the folder CUB_200_2011"),
        ("pairs", "is not finished (no _SUCCESS)"),
        ("rerank", "holds another model than a contrastive one"),
        ("inception", "does not hold the standard Inception weights"),
    ],
)
def test_an_option_that_leads_nowhere(
    finished: Finished, tiny_recipe: str, tmp_path: Path, option: str, message: str
) -> None:
    values: dict[str, Any] = {
        "candidates": 4,
        "pairs": [str(tmp_path)],
        "rerank": finished.dvae,
    }
    options = {option: values.get(option, tmp_path)}
    models = (finished.dalle, finished.dvae, finished.dataset, tmp_path / "o")
    with pytest.raises((InputError, FileNotFoundError), match=re.escape(message)):
        evaluate.evaluate(*models, **options)
    assert not (tmp_path / "o").exists()


def _tear(model: Path) -> None:
    weights = model / "final/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _other_text(model: Path) -> None:
    config = model / "final/config.json"
    content = json.loads(config.read_text())
    content["tokens"]["text_vocabulary"] += 7
    config.write_text(json.dumps(content))


def _other_recipe(model: Path) -> None:
    summary = model / "final/summary.json"
    summary.write_text(summary.read_text().replace('"tiny"', '"paper_12b"'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tear, "does not fit its configuration"),
        (_other_text, "does not fit its configuration"),
        (_other_recipe, "has grid 4, recipe paper_12b needs 32"),
    ],
)
def test_a_torn_or_foreign_transformer(
    finished: Finished, tiny_recipe: str, tmp_path: Path, change: Any, message: str
) -> None:
    shutil.copytree(finished.dalle, tmp_path / "dalle")
    change(tmp_path / "dalle")
    with pytest.raises(InputError, match=message):
        evaluate.evaluate(tmp_path / "dalle", finished.dvae, finished.dataset, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_two_at_once_do_not_write_one_report(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    models = (finished.dalle, finished.dvae, finished.dataset, tmp_path)
    with (
        only_program(tmp_path),
        pytest.raises(InputError, match=f"another program writes {tmp_path}; wait until"),
    ):
        evaluate.evaluate(*models, pictures=2)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_part_is_named(finished: Finished, tiny_recipe: str, tmp_path: Path) -> None:
    models = (finished.dalle, finished.dvae, finished.dataset, tmp_path)
    evaluate.evaluate(*models, pictures=2)
    part = tmp_path / ".drawn/unseen/codes/part-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-3])
    with pytest.raises(InputError, match=f"{part} is damaged .* delete it and start again"):
        evaluate.evaluate(*models, pictures=2)
    plan = part.with_name("plan.json")
    plan.write_text("{")
    with pytest.raises(InputError, match=f"{plan} is not valid JSON: .* delete {part.parent}"):
        evaluate.evaluate(*models, pictures=2)
