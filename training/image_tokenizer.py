"""A finished dVAE as the image tokenizer that the encode stage receives by injection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ImageTokenizerInfo:
    """What a dataset records about its image tokenizer, known without loading the weights."""

    image_size: int
    grid: int
    vocabulary: int
    sha256: str


def image_tokenizer_info(model_dir: str) -> ImageTokenizerInfo:
    """Facts about the finished dVAE in `model_dir`.

    Raises:
        ModelError: if there is none.
    """
    from training import finished

    config = finished.dvae_config(Path(model_dir))
    digest = finished.sha256(Path(model_dir))
    return ImageTokenizerInfo(config.image_size, config.grid, config.vocabulary, digest)


class DVAEImageTokenizer:
    """Encodes uint8 images [N, S, S, 3] as uint16 codes [N, grid, grid]."""

    def __init__(self, model: Any, info: ImageTokenizerInfo, batch: int = 64):
        self._model, self._batch = model, batch
        self.image_size, self.grid = info.image_size, info.grid
        self.vocabulary, self.sha256 = info.vocabulary, info.sha256

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Codes of the images, without noise."""
        import torch

        from training.images import to_tensor

        device = next(self._model.parameters()).device
        codes = [
            self._model.tokens(part.to(device)).cpu()
            for part in to_tensor(images).split(self._batch)
        ]
        return torch.cat(codes).numpy().astype(np.uint16)


def load_image_tokenizer(model_dir: str) -> DVAEImageTokenizer:
    """Load the finished dVAE in `model_dir`, on the GPU where there is one.

    Raises:
        ModelError: if there is none.
    """
    import torch

    from training.models.loading import load_dvae

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_dvae(Path(model_dir)).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return DVAEImageTokenizer(model, image_tokenizer_info(model_dir))
