"""A sheet of samples that a training of stage two draws now and then, from its averaged weights."""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from training.dalle.precision import Precision
from training.dalle.trainer import DALLETrainer
from training.drawing.pictures import contact_sheet, to_images
from training.drawing.sampling import draw
from training.drawing.sheet import choose_lines
from training.finished import sha256
from training.loop import Look
from training.models.dvae import DVAE
from training.models.loading import load_dvae
from training.models.transformer import Transformer
from training.splits import Split
from training.token_data import TokenData

SHEET = "samples-live.png"
_CAPTIONS, _CANDIDATES = 8, 2
_LABEL_WIDTH = 160


class LiveSamples:
    """Draws the same captions with the same noise every time, so that sheets can be compared.

    The captions are held out or for validation, where the dataset has such rows.

    Args:
        trainer: of the run.
        data: the dataset it is trained on.
        dvae: directory of the dVAE that made its codes.
        output: directory of the model; its sheet is replaced each time.

    Raises:
        InputError: if it is not that dVAE.
    """

    def __init__(self, trainer: DALLETrainer, data: TokenData, dvae: Path, output: Path):
        data.require_dvae(sha256(dvae))
        lines = choose_lines(data, 3 * _CAPTIONS)
        unseen = [line.caption for line in lines if line.split is not Split.TRAIN]
        self.captions = (unseen or [line.caption for line in lines])[:_CAPTIONS]
        self._trainer, self._encoder = trainer, data.encoder
        self._dvae = load_dvae(dvae) if trainer.runtime.first else None
        self._sheet = output / SHEET
        self._drawn: dict[str, Path] = {}

    def look(self, every: int) -> Look:
        """For the loop; `every` updates."""
        return Look(every, self._try, pictures=lambda: self._drawn)

    def _try(self, done: int) -> Mapping[str, float]:
        # All processes give their shards; the first one draws.
        model = self._trainer.averaged()
        self._drawn = {}
        if model is not None and self._dvae is not None:
            try:
                self._draw(model, self._dvae)
                self._drawn = {"samples": self._sheet}
            except torch.OutOfMemoryError:
                # Of a model in shards nobody counted on having room for all of it.
                print(
                    f"warning: no samples at update {done}: the device has no room for the whole "
                    "model beside the training",
                    file=sys.stderr,
                )
        return {}

    def _draw(self, model: Transformer, dvae: DVAE) -> None:
        device = self._trainer.runtime.device
        # As `training.sample` draws.
        bf16 = Precision.AUTO.on(device) is Precision.BF16
        model, dvae = model.to(device, torch.bfloat16 if bf16 else None), dvae.to(device)
        pictures = draw(model, dvae, self._encoder, self.captions, _CANDIDATES)
        rows = [(c, to_images(p)) for c, p in zip(self.captions, pictures, strict=True)]
        contact_sheet(rows, self._sheet, columns=2, label_width=_LABEL_WIDTH)
