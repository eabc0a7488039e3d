"""Images and captions in the joint space of a finished contrastive model."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from training.contrastive.images import MEAN, STD, normalised, square, squares
from training.contrastive.text import CaptionIds
from training.models.contrastive import Contrastive

# Pictures that are in the model at the same time.
_CHUNK = 64


class Embedder:
    """A contrastive model with what it needs around it.

    Args:
        model: in evaluation mode, on its device.
        text: its tokenizer.
        mean: of each channel, as the model was trained.
        std: of each channel.

    Raises:
        ValueError: if the tokenizer is another model's.
    """

    def __init__(
        self,
        model: Contrastive,
        text: CaptionIds,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        if (text.vocabulary, text.context) != (model.vocabulary, model.context):
            raise ValueError(
                f"the model reads {model.context} of {model.vocabulary} ids, the tokenizer gives "
                f"{text.context} of {text.vocabulary}"
            )
        self.model, self.text, self.mean, self.std = model, text, tuple(mean), tuple(std)

    @property
    def image_size(self) -> int:
        """Side of the square that the image tower sees."""
        return self.model.config.image_size

    def images(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] to unit vectors float32 [N, E] on the CPU."""

        def embed(part: Tensor) -> Tensor:
            seen = square(part.to(self._device), self.image_size)
            return self.model.embed_images(normalised(seen, self.mean, self.std))

        return self._in_parts(embed, images)

    def pictures(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Pictures of any size and mode to unit vectors [N, E]."""
        return self.images(squares(pictures, self.image_size)).numpy()

    def captions(self, captions: Sequence[str]) -> Tensor:
        """Captions to unit vectors float32 [N, E] on the CPU."""
        return self._in_parts(
            lambda ids: self.model.embed_text(ids.to(self._device)), self.text(captions)
        )

    @property
    def _device(self) -> torch.device:
        return self.model.logit_scale.device

    @torch.inference_mode()
    def _in_parts(self, embed: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        if not len(inputs):
            return torch.empty(0, self.model.config.embedding)
        return torch.cat([embed(part).cpu() for part in inputs.split(_CHUNK)])
