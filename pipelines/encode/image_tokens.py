"""What turns pictures into tokens (a protocol, injected), and the crops it is shown.

Crop 0 is what the model sees at inference. Crops 1, 2, ... follow arXiv 2102.12092, Listing 2:
a square near the centre, scaled to 8/8 ... 9/8 of the wanted size, then cropped at random, and
never mirrored (images contain text). A single stored row cannot be augmented later, hence K
crops that depend on nothing but uid and crop number.

A source whose short side is the wanted size leaves only the position of the square to chance;
for the scaling of Listing 2 store at least 9/8 of it.
"""

import hashlib
import io
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

CROP_RECIPE = "0: short side by Lanczos, centre; k >= 1: arXiv 2102.12092 Listing 2, seed (uid, k)"

_LARGEST_SCALE = 9 / 8


class ImageTokenizer(Protocol):
    """A discrete image encoder, such as the dVAE.

    Attributes:
        image_size: side S of the square images it takes, in pixels.
        grid: codes along one side of its output.
        vocabulary: number of codes; ids are 0 to vocabulary - 1.
        sha256: hash of its weights, in hex.
        precision: that it computes in, `fp32` or `bf16`; close calls between two codes differ.
    """

    image_size: int
    grid: int
    vocabulary: int
    sha256: str
    precision: str

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Encode uint8 images [N, S, S, 3] as uint16 codes [N, grid, grid]."""


def decode(image: bytes) -> Image.Image:
    """Decode image bytes to RGB.

    Raises:
        ValueError: if they cannot be decoded, with the decoder's words.
    """
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def crop(picture: Image.Image, uid: bytes, crop_id: int, size: int) -> npt.NDArray[np.uint8]:
    """Crop number `crop_id` of an RGB picture, as uint8 [size, size, 3]."""
    square = _centre_crop(picture, size)
    if crop_id:
        square = _listing_2_crop(picture, _draws(uid, crop_id), size)
    return np.asarray(square, dtype=np.uint8)


def _centre_crop(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    resized = picture
    if (wide, high) != picture.size:
        resized = picture.resize((wide, high), Image.Resampling.LANCZOS)
    left, top = (wide - size) // 2, (high - size) // 2
    return resized.crop((left, top, left + size, top + size))


def _listing_2_crop(picture: Image.Image, draws: Iterator[int], size: int) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (_uniform(draws, *_offsets(length - side)) for length in (width, height))
    largest = max(size, min(side, round(_LARGEST_SCALE * size)))
    scaled = _uniform(draws, size, largest + 1)
    # Pillow's BOX filter is the mean over the source area, the listing's AREA resize.
    square = picture.crop((left, top, left + side, top + side)).resize(
        (scaled, scaled), Image.Resampling.BOX
    )
    left, top = (_uniform(draws, 0, scaled - size + 1) for _ in range(2))
    return square.crop((left, top, left + size, top + size))


def _offsets(spare: int) -> tuple[int, int]:
    low = 3 * spare // 8
    return low, max(low + 1, 5 * spare // 8)


def _draws(uid: bytes, crop_id: int) -> Iterator[int]:
    """32-bit numbers from a hash: equal on every platform and version, unlike a generator's."""
    digest = hashlib.sha256(uid + crop_id.to_bytes(4, "little")).digest()
    return iter(np.frombuffer(digest, dtype="<u4").tolist())


def _uniform(draws: Iterator[int], low: int, high: int) -> int:
    """A whole number in [low, high)."""
    return low + (next(draws) * (high - low) >> 32)
