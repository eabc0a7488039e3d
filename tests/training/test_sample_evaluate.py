import hashlib
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import regex
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_training import Finished
from tqdm import tqdm

from training import evaluate, sample
from training.drawing import captions as sample_captions
from training.drawing.sampling import draw
from training.errors import InputError
from training.finished import ModelError, sha256
from training.models.loading import load_dvae, load_transformer
from training.recipes import recipe
from training.splits import Split
from training.token_data import DatasetMismatchError, TokenData


def test_sample_writes_a_sheet_and_its_captions(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    models = (finished.dvae, finished.dataset)
    for name in ("one", "two"):
        sample.sample(finished.dalle, tmp_path / name, *models, limit=8, candidates=2)
    facts = json.loads((tmp_path / "one/samples.json").read_text())
    assert (facts["dalle_sha256"], facts["dvae_sha256"]) == (
        sha256(finished.dalle),
        sha256(finished.dvae),
    )
    assert (facts["candidates"], facts["prompt"]) == (2, None)
    assert len(facts["captions"]) == 8
    assert {line["split"] for line in facts["captions"]} == {"train", "held_out", "validation"}
    for line in facts["captions"]:
        assert ("red heart" in line["caption"]) == (line["split"] == "held_out")
    with Image.open(tmp_path / "one/samples.png") as sheet:
        assert sheet.height > 2 * 32  # eight captions in four columns: two lines of 2x16 pixels
    same = [(tmp_path / name / "samples.png").read_bytes() for name in ("one", "two")]
    assert same[0] == same[1]


def test_a_sheet_tells_of_every_code(
    finished: Finished, tiny_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            told.append(n or 0)
            return super().update(n)

    monkeypatch.setattr(sample, "tqdm", Bar)
    sample.sample(finished.dalle, tmp_path, finished.dvae, finished.dataset, limit=3, candidates=2)
    # One batch of six pictures, position after position.
    assert told == [6] * 16


def test_evaluate_measures_every_split(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    evaluate.evaluate(finished.dalle, finished.dvae, finished.dataset, tmp_path)
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    data = TokenData(finished.dataset, recipe(tiny_recipe))
    rows = sum(figures[f"{split}_rows"] for split in Split)
    assert rows == data.manifest.rows
    for split in Split:
        assert 0 < figures[f"{split}_nats_image"] < 2 * math.log(32)
        gain = figures[f"{split}_nats_image_shuffled"] - figures[f"{split}_nats_image"]
        assert figures[f"{split}_caption_gain"] == pytest.approx(gain)
    for name in ("likelihood.png", "held_out.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"


def test_drawing_nothing_is_refused(finished: Finished, tiny_recipe: str) -> None:
    models = load_transformer(finished.dalle), load_dvae(finished.dvae)
    encoder = TokenData(finished.dataset, recipe(tiny_recipe)).encoder
    with pytest.raises(InputError, match="0 captions x 3 candidates: nothing to draw"):
        draw(*models, encoder, [], 3)
    with pytest.raises(InputError, match="1 captions x 0 candidates: nothing to draw"):
        draw(*models, encoder, ["a cat"], 0)


def test_draw_is_a_function_of_captions_and_seed(finished: Finished, tiny_recipe: str) -> None:
    models = load_transformer(finished.dalle), load_dvae(finished.dvae)
    encoder = TokenData(finished.dataset, recipe(tiny_recipe)).encoder
    one, same, other = (draw(*models, encoder, ["a cat", ""], 2, seed=s) for s in (0, 0, 1))
    assert one.shape == (2, 2, 3, 16, 16)
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0, 0], one[0, 1])
    # The tokenizer reads both alike.
    lower, upper = draw(*models, encoder, ["a cat", "A CAT"], 1)
    assert torch.equal(lower[0], one[0, 0])
    assert not torch.equal(lower, upper)


def test_a_model_of_the_other_stage_is_refused(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="does not hold a transformer"):
        sample.sample(finished.dvae, tmp_path)
    with pytest.raises(ModelError, match="does not hold a dVAE"):
        sample.sample(finished.dalle, tmp_path, finished.dalle)
    with pytest.raises(ModelError, match="holds no finished model; train it first"):
        sample.sample(tmp_path, tmp_path)


def test_a_torn_model_file_is_named(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.dvae, tmp_path / "dvae")
    weights = tmp_path / "dvae/final/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=re.escape(f"{weights} does not fit")):
        load_dvae(tmp_path / "dvae")


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_torn_description_is_named(finished: Finished, tmp_path: Path, name: str) -> None:
    output = Path(shutil.copytree(finished.dalle, tmp_path / "dalle"))
    torn = output / "final" / name
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(ModelError, match=f"{re.escape(str(torn))} is damaged: .*; copy it again"):
        sample.sample(output, tmp_path, finished.dvae, caption=["a cat"])


@pytest.mark.parametrize("name", ["config.json", "summary.json", "model.safetensors"])
def test_a_missing_file_is_named(finished: Finished, tmp_path: Path, name: str) -> None:
    output = Path(shutil.copytree(finished.dalle, tmp_path / "dalle"))
    missing = output / "final" / name
    missing.unlink()
    with pytest.raises(ModelError, match=f"^{re.escape(str(missing))} is missing; copy it again"):
        sample.sample(output, tmp_path, finished.dvae, caption=["a cat"])
    if name.startswith("model"):
        with pytest.raises(ModelError, match="is missing; copy it again whole"):
            sha256(output)


def test_the_checkpoint_alone_says_where_the_rest_is(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    models = tmp_path / "root/models"
    shutil.copytree(finished.dalle, models / "dalle")
    with pytest.raises(ModelError, match=f"{models}/dvae holds no finished model"):
        sample.sample(models / "dalle", tmp_path / "out", caption=["a cat"])
    shutil.copytree(finished.dvae, models / "dvae")
    with pytest.raises(ModelError, match=r"was trained on the dataset .*; give --dataset"):
        sample.sample(models / "dalle", tmp_path / "out", caption=["a cat"])
    shutil.copytree(Path(finished.dataset).parent, tmp_path / "root/token_dataset")
    sample.sample(models / "dalle", tmp_path / "out", caption=["a cat"], partial=True)
    written = {path.name for path in (tmp_path / "out/caption-00").iterdir()}
    assert written == {"best-00.png", "partial.png", "samples.json", "sheet.png"}


def test_a_picture_is_white_where_it_is_not_drawn(finished: Finished, tmp_path: Path) -> None:
    dvae, path = load_dvae(finished.dvae), tmp_path / "partial.png"
    sample_captions.write_partial(path, "a cat", dvae, torch.zeros(1, 8, dtype=torch.long))
    with Image.open(path) as sheet:
        picture = sheet.crop((206, 6, 238, 38)).convert("L")  # 16 pixels a side, enlarged twice
    assert picture.crop((0, 16, 32, 32)).getextrema() == (255, 255)
    assert picture.crop((0, 0, 32, 16)).getextrema()[1] < 255


def test_a_dataset_of_another_grid_is_refused(finished: Finished) -> None:
    with pytest.raises(DatasetMismatchError, match="has grid 4, recipe paper_12b needs 32"):
        TokenData(finished.dataset, recipe("paper_12b"))


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("a\tred\x00 heart\n", "a red heart"),
        ("猫の絵文字", "猫の絵文字"),
        ("\udcff cat", "cat"),
        # Format characters join emoji, and shape Persian and Sinhala.
        *((text, text) for text in ("👩\u200d🚀", "می\u200cخواهم", "ශ්\u200dරී", "❤\ufe0f", "नी")),
    ],
)
def test_captions_are_cleaned(caption: str, cleaned: str) -> None:
    assert sample_captions.clean_caption(caption) == cleaned


@pytest.mark.parametrize(
    "caption",
    [
        *("", "  ", "\x00\n", "\u200b", "\u202e \u202c", "\ufeff\n\u200d\ufe0f"),
        *("\u3164", "\u115f\u1160 \uffa0", "\u2800\u2800", "\U0001d159"),
    ],
)
def test_a_caption_without_text_is_refused(caption: str) -> None:
    with pytest.raises(InputError, match="has no text; say what the picture shows"):
        sample_captions.clean_caption(caption)


def test_no_character_that_unicode_says_to_ignore_is_text() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    ignored = regex.findall(r"\p{Default_Ignorable_Code_Point}", every)
    assert len(ignored) > 4_000
    for character in ignored:
        with pytest.raises(InputError, match="has no text"):
            sample_captions.clean_caption(character)
    assert sample_captions.clean_caption("\u3164한글\u3164") == "\u3164한글\u3164"


def test_the_best_of_many_for_ones_own_captions(
    finished: Finished, tiny_recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = tmp_path / "prompt.png"
    Image.new("LA", (50, 31), 128).save(prompt)
    models = (finished.dalle, tmp_path, finished.dvae, finished.dataset)
    sample.sample(
        *models, caption=["red " * 2500, "猫"], candidates=5, best=2,
        prompt=prompt, prompt_row=2,
    )  # fmt: skip
    assert "the model reads the first 40" in capsys.readouterr().err
    for name in ("caption-00", "caption-01"):
        facts = json.loads((tmp_path / name / "samples.json").read_text())
        assert facts["scores"] == sorted(facts["scores"], reverse=True)
        assert len(facts["scores"]) == 2
        digest = hashlib.sha256(prompt.read_bytes()).hexdigest()
        assert facts["prompt"] == {"sha256": digest, "row": 2, "column": 0}
        with Image.open(tmp_path / name / "best-01.png") as picture:
            assert picture.size == (16, 16)
    with pytest.raises(InputError, match="the best 3 of 2 candidates cannot be chosen"):
        sample.sample(*models, caption=["a cat"], candidates=2, best=3)
    for data in (b"no picture", b"P6 2 x 255\n", _png_with_a_long_text()):
        prompt.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as a picture"):
            sample.sample(*models, caption=["a cat"], prompt=prompt, prompt_row=2)


def _png_with_a_long_text() -> bytes:
    """A picture whose comment Pillow refuses to decompress."""
    stream, text = io.BytesIO(), PngInfo()
    text.add_text("Comment", "a" * (8 << 20), zip=True)
    Image.new("RGB", (32, 32)).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()
