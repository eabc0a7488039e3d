"""Pictures for a contrastive model: crops for training, squares for inference, normalisation."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.config import ContrastiveTraining
from training.dvae.images import decode, to_tensor

# Of the pictures CLIP was trained on; its checkpoints expect them (openai/CLIP, clip.py).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def training_pictures(table: pa.Table, size: int, training: ContrastiveTraining) -> Tensor:
    """Rows with uid, image and epoch to randomly cropped uint8 [B, 3, size, size].

    A random square crop is CLIP's only augmentation (arXiv 2103.00020, section 2.3); it is drawn
    from (seed, epoch, uid).
    """
    pictures = []
    columns = (table[name].to_pylist() for name in ("uid", "epoch", "image"))
    for uid, epoch, image in zip(*columns, strict=True):
        key = (training.seed, epoch, int.from_bytes(uid[:8], "little"))
        draw = np.random.default_rng(key)
        pictures.append(_random_square(decode(image), size, training.least_crop, draw))
    return to_tensor(np.stack(pictures))


def _random_square(
    picture: Image.Image, size: int, least: float, draw: np.random.Generator
) -> npt.NDArray[np.uint8]:
    side = draw.uniform(least, 1) * min(picture.size)
    left, top = (draw.uniform(0, length - side) for length in picture.size)
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def square(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, H, W]: the short side to `size` by an antialiased bicubic, then the centre.

    This is what CLIP's checkpoints saw, within a grey level of Pillow's.
    """
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    high, wide = max(size, round(height * scale)), max(size, round(width * scale))
    if (high, wide) != (height, width):
        resized = F.interpolate(images.float(), (high, wide), mode="bicubic", antialias=True)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    top, left = (high - size) // 2, (wide - size) // 2
    return images[..., top : top + size, left : left + size]


def squares(pictures: Sequence[Image.Image], size: int) -> Tensor:
    """Pictures of any size and mode to uint8 [N, 3, size, size]."""
    arrays = [np.array(picture.convert("RGB")) for picture in pictures]
    return torch.cat([square(to_tensor(array[None]), size) for array in arrays])


def normalised(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """uint8 [N, 3, S, S] to what the image tower takes, float32."""
    shape = (3, 1, 1)
    centre, spread = (images.new_tensor(v, dtype=torch.float32).view(shape) for v in (mean, std))
    return (images.float() / 255 - centre) / spread
