"""The sheet of samples that a training draws now and then."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import HELD_OUT, Finished, tiny

from training import train_dalle
from training.dalle.live_samples import SHEET, LiveSamples
from training.dalle.trainer import DALLETrainer
from training.errors import InputError
from training.reporting import TENSORBOARD
from training.runtime import Runtime
from training.token_data import TokenData


def test_samples_are_shown_and_change_nothing(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    train_dalle.train(
        tiny_recipe, finished.dataset, tmp_path, dvae=finished.dvae, samples_every=25
    )  # fmt: skip
    with Image.open(tmp_path / SHEET) as sheet:
        assert sheet.width > 2 * 160
        assert len(sheet.convert("RGB").getcolors(2**20)) > 20
    board = EventAccumulator(str(tmp_path / TENSORBOARD))
    board.Reload()
    assert [image.step for image in board.Images("samples")] == [25, 50]
    weights, others = (
        load_file(output / "final/model.safetensors") for output in (tmp_path, finished.dalle)
    )
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def test_its_captions_were_not_trained_on(finished: Finished, tmp_path: Path) -> None:
    data = TokenData(finished.dataset, tiny())
    trainer = DALLETrainer(data, Runtime(0, 1, torch.device("cpu")), "run")
    captions = LiveSamples(trainer, data, finished.dvae, tmp_path).captions
    assert 1 < len(captions) <= 8
    assert any(HELD_OUT in caption for caption in captions)


def test_a_device_without_room_for_the_whole_model_goes_on_training(
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = TokenData(finished.dataset, tiny())
    trainer = DALLETrainer(data, Runtime(0, 1, torch.device("cpu")), "run")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("training.dalle.live_samples.draw", full)
    look = LiveSamples(trainer, data, finished.dvae, tmp_path).look(1)
    assert look.measure(7) == {}
    assert look.pictures() == {}
    assert "warning: no samples at update 7: the device has no room" in capsys.readouterr().err


def test_another_dvae_is_refused(finished: Finished, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished.dvae, tmp_path / "dvae"))
    weights = other / "final/model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    data = TokenData(finished.dataset, tiny())
    trainer = DALLETrainer(data, Runtime(0, 1, torch.device("cpu")), "run")
    with pytest.raises(InputError, match="name that dVAE, or encode again"):
        LiveSamples(trainer, data, other, tmp_path)
