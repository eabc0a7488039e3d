"""What `training.sample` keeps for captions of one's own, and what it refuses in one sentence."""

import dataclasses
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_training import Finished, tiny
from torch import Tensor

from training import sample
from training.drawing.sampling import Drawn, draw_codes, pictures_of
from training.models.loading import load_dvae, load_transformer
from training.models.transformer import Transformer
from training.token_data import TokenData

CAPTION = "a red heart"
Run = Callable[..., str]


def drawn(model: Transformer, finished: Finished, candidates: int) -> Drawn:
    """All candidates of the caption."""
    encoder = TokenData(finished.dataset, tiny()).encoder
    codes, nats = zip(*draw_codes(model, encoder, [CAPTION], candidates), strict=True)
    return Drawn(torch.cat(codes), torch.cat(nats))


def kept(directory: Path) -> Tensor:
    """The best pictures, uint8 [n, 3, S, S]."""
    files = sorted(directory.glob("best-*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1) for f in files])


def scores(directory: Path) -> list[float]:
    found: list[float] = json.loads((directory / "samples.json").read_text())["scores"]
    return found


def test_the_best_4_of_16_are_the_likeliest(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    sample.sample(
        finished.dalle, tmp_path, finished.dvae, finished.dataset, caption=[CAPTION],
        candidates=16, best=4,
    )  # fmt: skip
    found = tmp_path / "caption-00"
    names = ["best-00.png", "best-01.png", "best-02.png", "best-03.png", "samples.json"]
    assert sorted(path.name for path in found.iterdir()) == [*names, "sheet.png"]
    codes, nats = drawn(load_transformer(finished.dalle), finished, 16)
    order = nats.argsort(stable=True)[:4]
    assert torch.equal(kept(found), pictures_of(load_dvae(finished.dvae), codes[order]))
    assert scores(found) == pytest.approx((-nats[order]).tolist(), abs=1e-4)
    with Image.open(found / "sheet.png") as sheet:
        # A label, then four pictures of 16 pixels, enlarged twice, each with a gap.
        assert sheet.width == 200 + 4 * (32 + 6) + 12


def test_it_draws_in_bf16_where_asked(finished: Finished, tiny_recipe: str, tmp_path: Path) -> None:
    for precision in ("auto", "fp32", "bf16"):
        sample.sample(
            finished.dalle, tmp_path / precision, finished.dvae, finished.dataset,
            caption=[CAPTION], candidates=3, best=3, precision=precision,
        )  # fmt: skip
    for precision, model in (
        ("fp32", load_transformer(finished.dalle)),
        ("bf16", load_transformer(finished.dalle).bfloat16()),
    ):
        found = tmp_path / precision / "caption-00"
        assert json.loads((found / "samples.json").read_text())["precision"] == precision
        expected = (-drawn(model, finished, 3).nats).sort(descending=True).values
        assert scores(found) == pytest.approx(expected.tolist(), abs=1e-4)
    assert scores(tmp_path / "bf16/caption-00") != scores(tmp_path / "fp32/caption-00")
    if not torch.cuda.is_available():
        # bf16 is slower than fp32 on a CPU.
        same = [(tmp_path / p / "caption-00/samples.json").read_bytes() for p in ("auto", "fp32")]
        assert same[0] == same[1]


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    finished: Finished,
    tiny_recipe: str,
    tmp_path: Path,
) -> Run:
    """Starts the command with the finished models; its one line on stderr."""

    def start(*options: object, checkpoint: Path = finished.dalle, dvae: Path | None = None) -> str:
        models = ("--checkpoint", checkpoint, "--dvae", dvae or finished.dvae)
        where = ("--dataset", finished.dataset, "--out", tmp_path / "out")
        monkeypatch.setattr(sys, "argv", ["sample", *map(str, (*models, *where, *options))])
        monkeypatch.delitem(sys.modules, "training.sample", raising=False)
        with pytest.raises(SystemExit) as end:
            runpy.run_module("training.sample", run_name="__main__", alter_sys=True)
        error = capsys.readouterr().err
        assert (end.value.code, error.count("\n")) == (2, 1)
        assert not (tmp_path / "out").exists()
        return error

    return start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--best", "1"], "--best means nothing without --caption"),
        (["--partial"], "--partial means nothing without --caption"),
        (["--prompt", "a.png"], "--prompt means nothing without --caption"),
        (["--caption", CAPTION, "--prompt-row", "0"], "--prompt-row means nothing without --pro"),
        (["--caption", CAPTION, "--prompt-column", "1"], "--prompt-column means nothing without"),
        (["--caption", "\u200b\u202e"], "the caption '\\u200b\\u202e' has no text; say what"),
    ],
)
def test_options_without_sense(refused: Run, options: list[str], message: str) -> None:
    assert refused(*options).startswith(f"error: {message}")


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config", lambda c: c["transformer"].update(rotary=1), "has the unknown rotary"),
        ("config", lambda c: c["transformer"].pop("depth"), "lacks depth"),
        ("config", lambda c: c["tokens"].pop("grid"), "lacks grid"),
        ("config", lambda c: c["tokens"].update(grid="4"), "has no positive whole number in grid"),
        ("config", lambda c: c.update(tokens=[4]), "lacks grid, image_vocabulary, text_length"),
        ("config", lambda c: c["transformer"].update(heads=4), "does not fit its configuration"),
        ("summary", lambda c: c.pop("recipe"), "lacks recipe"),
        ("summary", lambda c: c.update(recipe="demo"), "has grid 4, recipe demo needs 10"),
        ("summary", lambda c: c.update(recipe="none"), "unknown recipe 'none'"),
    ],
)
def test_a_transformer_whose_description_is_wrong(
    finished: Finished, refused: Run, tmp_path: Path, file: str, change: Change, message: str
) -> None:
    model = Path(shutil.copytree(finished.dalle, tmp_path / "model"))
    path = model / f"final/{file}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert message in refused("--caption", CAPTION, checkpoint=model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(depth=1), "has the unknown depth; copy it again whole, or train"),
        (lambda c: c.pop("image_size"), "lacks image_size; copy it again whole, or train"),
        (lambda c: c.update(image_size=18), "image_size 18 is not a multiple of 4"),
    ],
)
def test_a_dvae_whose_description_is_wrong(
    finished: Finished, refused: Run, tmp_path: Path, change: Change, message: str
) -> None:
    model = Path(shutil.copytree(finished.dvae, tmp_path / "model"))
    path = model / "final/config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert message in refused("--caption", CAPTION, dvae=model)


def test_weights_that_are_cut_or_of_another_recipe(
    finished: Finished, refused: Run, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(finished.dalle, tmp_path / "model"))
    weights = model / "final/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    message = f"error: {weights} does not fit its configuration: "
    assert refused("--caption", CAPTION, checkpoint=model).startswith(message)
    whole = load_transformer(finished.dalle)
    wider = dataclasses.replace(whole.config, heads=3)
    tokens = (whole.text_vocabulary, whole.text_length, whole.image_vocabulary, whole.grid)
    save_file(dict(Transformer(wider, *tokens).named_parameters()), weights)
    error = refused("--caption", CAPTION, checkpoint=model)
    assert error.startswith(message)
    assert error.endswith(" ...; copy it again whole, or train again\n")
