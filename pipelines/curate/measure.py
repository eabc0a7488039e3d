"""Everything that curation wants of one file, taken from one decoding of it.

The file is decoded (and, if its format has no scaled decoding, averaged) to a working size of at
least 1.5 times the stored short side: hashes and the stored picture made of that differ from
those of the full size by no more than a re-encoding does, at a third of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipelines.curate.decode import decode_sized, resized, stored_size, thumbnail
from pipelines.dedupe.variants import trim_border

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
        small: the image at the short side that is stored; 64 pixels at most where the aspect
            ratio rules it out.
    """

    width: int
    height: int
    colour_range: int
    grey32: np.ndarray
    grey64: np.ndarray
    trimmed32: np.ndarray
    trimmed64: np.ndarray
    small: Image.Image


def measure(data: bytes, limits: Limits) -> Measured:
    """Decode a file and take every measure of it.

    Raises:
        DecodeError: if it is refused.
        OutOfMemory: if there was not enough memory.
    """
    image, (width, height) = decode_sized(
        data,
        formats=limits.formats,
        max_pixels=limits.max_pixels,
        max_frames=limits.max_frames,
        at_least=working_side(limits.short_side),
    )
    image = reduced(image, limits.short_side)
    grey = image.convert("L")
    trimmed = trim_border(grey)
    grey32, grey64 = (_grey(grey, side) for side in GREY_SIDES)
    if trimmed is grey:
        trimmed32, trimmed64 = grey32, grey64
    else:
        trimmed32, trimmed64 = (_grey(trimmed, side) for side in GREY_SIDES)
    if limits.min_aspect <= width / height <= limits.max_aspect:
        small = resized(image, *stored_size(width, height, limits.short_side))
    else:
        small = thumbnail(image)
    extrema = image.getextrema()
    return Measured(
        width=width,
        height=height,
        colour_range=max(int(high) - int(low) for low, high in extrema),  # type: ignore[misc]
        grey32=grey32,
        grey64=grey64,
        trimmed32=trimmed32,
        trimmed64=trimmed64,
        small=small,
    )


def working_side(short_side: int) -> int:
    """Least short side of the picture that hashes and the stored picture are made of."""
    return max(_HASHED_SIDE, round(short_side * _PER_STORED))


def reduced(image: Image.Image, short_side: int) -> Image.Image:
    """Averaged over whole squares of pixels, as far as the working size allows."""
    factor = min(image.size) // working_side(short_side)
    return image.reduce(factor) if factor > 1 else image


def _grey(grey: Image.Image, side: int) -> np.ndarray:
    return np.asarray(grey.resize((side, side), Image.Resampling.LANCZOS))
