"""Everything that curation wants of one file, taken from one decoding of it.

The file is decoded (and, if its format has no scaled decoding, averaged) to a working size of at
least 1.5 times the stored short side, and the stored picture made of that; the hashes are those of
the stored picture before its encoding, or of the working size if less than 256 pixels are stored.
Both differ from those of the full size by no more than a re-encoding does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.curate.decode import decode_pixels, stored_size, thumbnail
from pipelines.curate.greys import luma, small_greys
from pipelines.curate.resize import lanczos
from pipelines.dedupe.variants import inside_border

# Pixels a side of what the 64- and the 256-bit hash are made of; imagehash's own factor is 4.
GREY_SIDES = (32, 64)
# Least short side that is hashed, and least one per stored pixel.
_HASHED_SIDE = 256
_PER_STORED = 1.5


@dataclass(frozen=True)
class Limits:
    """What may be decoded, and what is kept of it; the fields are those of `CurateConfig`."""

    formats: Sequence[str]
    max_pixels: int
    max_frames: int
    min_aspect: float
    max_aspect: float
    short_side: int


@dataclass(frozen=True)
class Measured:
    """What stays of a decoded image once its pixels are let go.

    Attributes:
        width: pixels of the original, upright.
        height: pixels of the original, upright.
        colour_range: greatest span of a colour channel, 0 to 255.
        grey32: uint8 [32, 32], what the 64-bit hash is made of.
        grey64: uint8 [64, 64], what the 256-bit hash is made of.
        trimmed32: as `grey32`, of the image without its plain border.
        trimmed64: as `grey64`, of the image without its plain border.
        small: uint8 [H, W, 3], the image at the short side that is stored; 64 pixels at most where
            the aspect ratio rules it out.
    """

    width: int
    height: int
    colour_range: int
    grey32: np.ndarray
    grey64: np.ndarray
    trimmed32: np.ndarray
    trimmed64: np.ndarray
    small: np.ndarray


class Greys(NamedTuple):
    """What the hashes of a picture are made of, as `Measured` has it."""

    grey32: np.ndarray
    grey64: np.ndarray
    trimmed32: np.ndarray
    trimmed64: np.ndarray


def measure(data: bytes, limits: Limits) -> Measured:
    """Decode a file and take every measure of it.

    Raises:
        DecodeError: if it is refused.
        OutOfMemory: if there was not enough memory.
    """
    pixels, (width, height) = decode_pixels(
        data,
        formats=limits.formats,
        max_pixels=limits.max_pixels,
        max_frames=limits.max_frames,
        at_least=working_side(limits.short_side),
    )
    pixels = _averaged(pixels, limits.short_side)
    if limits.min_aspect <= width / height <= limits.max_aspect:
        small = lanczos(pixels, *stored_size(width, height, limits.short_side))
    else:
        small = np.asarray(thumbnail(Image.fromarray(pixels)))
    hashed = small if _hashes_stored(limits.short_side) else pixels
    greys = hashed_greys(hashed)
    return Measured(
        width=width,
        height=height,
        colour_range=_colour_range(hashed),
        grey32=greys.grey32,
        grey64=greys.grey64,
        trimmed32=greys.trimmed32,
        trimmed64=greys.trimmed64,
        small=small,
    )


def hashed_picture(image: Image.Image, short_side: int) -> np.ndarray:
    """What the hashes of a picture are made of, uint8 [H, W, 3], if all of it was decoded."""
    pixels = _averaged(np.asarray(image.convert("RGB")), short_side)
    if not _hashes_stored(short_side):
        return pixels
    return lanczos(pixels, *stored_size(*image.size, short_side))


def hashed_greys(pixels: np.ndarray) -> Greys:
    """The grey pictures of uint8 [H, W, 3]."""
    grey = luma(pixels)
    grey32, grey64 = small_greys(grey, GREY_SIDES)
    box = inside_border(grey)
    if box is None:
        return Greys(grey32, grey64, grey32, grey64)
    left, top, right, bottom = box
    return Greys(grey32, grey64, *small_greys(grey[top:bottom, left:right], GREY_SIDES))


def working_side(short_side: int) -> int:
    """Least short side of the picture that hashes and the stored picture are made of."""
    return max(_HASHED_SIDE, round(short_side * _PER_STORED))


def hashed_size(short_side: int) -> str:
    """What hashes are made of where pictures are stored at this short side, in words."""
    if _hashes_stored(short_side):
        return f"short side {short_side}, or the original's if less"
    return f"short side at least {working_side(short_side)}, or the original's if less"


def _hashes_stored(short_side: int) -> bool:
    return short_side >= _HASHED_SIDE


def _averaged(pixels: np.ndarray, short_side: int) -> np.ndarray:
    """uint8 [H, W, 3], averaged over whole squares as far as the working size allows."""
    factor = min(pixels.shape[:2]) // working_side(short_side)
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def _colour_range(pixels: np.ndarray) -> int:
    """Greatest span of a channel of uint8 [H, W, 3]."""
    # Whole rows are compared at once, then the few pixels that are left.
    rows = pixels.reshape(len(pixels), -1)
    high, low = rows.max(axis=0).reshape(-1, 3), rows.min(axis=0).reshape(-1, 3)
    return int((high.max(axis=0) - low.min(axis=0)).max())
