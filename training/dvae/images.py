"""Pictures of `deduped_pairs` as batches of uint8 tensors, with the paper's augmentation."""

import io
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from training.config import DVAEConfig, DVAETraining


def decode(image: bytes) -> Image.Image:
    """Image bytes as RGB."""
    with Image.open(io.BytesIO(image)) as picture:
        return picture.convert("RGB")


def centre_crop(picture: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Short side to `size` by Lanczos, then the centre: what the models see at inference."""
    width, height = picture.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    if (wide, high) != picture.size:
        picture = picture.resize((wide, high), Image.Resampling.LANCZOS)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def augment(
    picture: Image.Image,
    config: DVAEConfig,
    training: DVAETraining,
    draw: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """A random square, scaled and cropped again, perhaps mirrored (appendix A.2, listing 1)."""
    size = config.image_size
    side = min(picture.size)
    left = int(draw.integers(picture.width - side + 1))
    top = int(draw.integers(picture.height - side + 1))
    least, most = (max(size, min(side, round(factor * size))) for factor in training.resize)
    scaled = int(draw.integers(least, most + 1))
    # Pillow's BOX filter is the mean over the source area, the listing's AREA resize.
    square = picture.crop((left, top, left + side, top + side)).resize(
        (scaled, scaled), Image.Resampling.BOX
    )
    left, top = (int(v) for v in draw.integers(scaled - size + 1, size=2))
    square = square.crop((left, top, left + size, top + size))
    if training.flip and draw.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def training_batch(
    table: pa.Table,
    config: DVAEConfig,
    training: DVAETraining,
    each: Callable[..., Iterable[npt.NDArray[np.uint8]]] = map,
) -> Tensor:
    """Rows with uid, image and epoch to augmented uint8 [B, 3, S, S].

    What is drawn depends on (seed, epoch, uid) alone. `each` is `map`, or that of a pool.
    """

    def one(uid: bytes, image: bytes, epoch: int) -> npt.NDArray[np.uint8]:
        seed = (training.seed, epoch, int.from_bytes(uid[:8], "little"))
        return augment(decode(image), config, training, np.random.default_rng(seed))

    columns = (table[name].to_pylist() for name in ("uid", "image", "epoch"))
    return to_tensor(np.stack(list(each(one, *columns))))


def plain_batch(table: pa.Table, size: int) -> Tensor:
    """Rows with image to uint8 [B, 3, size, size], centre-cropped."""
    images = table["image"].to_pylist()
    return to_tensor(np.stack([centre_crop(decode(image), size) for image in images]))


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] to uint8 [B, 3, S, S], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
