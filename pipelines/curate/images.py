"""Image rules and the measures that they judge, all taken from one decoded image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import shrink
from pipelines.curate.reasons import Reason, dropped_where
from pipelines.dedupe import hashes
from pipelines.dedupe.variants import trim_border


@dataclass(frozen=True)
class Measured:
    """What stays of a decoded image once its pixels are let go.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        colour_range: greatest span of a colour channel, 0 to 255.
        grey32: uint8 [32, 32], what the 64-bit hash is made of.
        grey64: uint8 [64, 64], what the 256-bit hash is made of.
        trimmed32: as `grey32`, of the image without its plain border.
        trimmed64: as `grey64`, of the image without its plain border.
        small: the image at the short side that is stored.
    """

    width: int
    height: int
    colour_range: int
    grey32: np.ndarray
    grey64: np.ndarray
    trimmed32: np.ndarray
    trimmed64: np.ndarray
    small: Image.Image


def measure(image: Image.Image, short_side: int) -> Measured:
    """Take every measure of a decoded RGB image."""
    extrema = image.getextrema()
    grey = image.convert("L")
    trimmed = trim_border(grey)
    grey32, grey64 = (hashes.grey_pixels([grey], size)[0] for size in (8, 16))
    if trimmed is grey:
        trimmed32, trimmed64 = grey32, grey64
    else:
        trimmed32, trimmed64 = (hashes.grey_pixels([trimmed], size)[0] for size in (8, 16))
    return Measured(
        width=image.width,
        height=image.height,
        colour_range=max(int(high) - int(low) for low, high in extrema),  # type: ignore[misc]
        grey32=grey32,
        grey64=grey64,
        trimmed32=trimmed32,
        trimmed64=trimmed64,
        small=shrink(image, short_side),
    )


def too_few_bytes(lengths: pa.Array, config: CurateConfig) -> pa.StringArray:
    """Files shorter than the configuration asks for; `lengths` in bytes."""
    return dropped_where(pc.less(lengths, config.min_bytes), Reason.TOO_FEW_BYTES)


def image_reasons(columns: pa.Table, config: CurateConfig) -> pa.StringArray:
    """The first rule that each image breaks, null where it breaks none.

    Args:
        columns: `image_columns`.
        config: the thresholds.
    """
    width, height = columns.column("width"), columns.column("height")
    shorter = pc.min_element_wise(width, height)
    aspect = columns.column("aspect")
    outside = pc.or_(pc.less(aspect, config.min_aspect), pc.greater(aspect, config.max_aspect))
    plain = pc.less(columns.column("colour_range"), config.min_colour_range)
    flat = pc.less(columns.column("contrast"), config.min_contrast)
    return pc.coalesce(
        dropped_where(outside, Reason.ASPECT_RATIO),
        dropped_where(pc.less(shorter, config.min_side), Reason.IMAGE_TOO_SMALL),
        dropped_where(plain, Reason.SINGLE_COLOUR),
        dropped_where(flat, Reason.LOW_INFORMATION),
    )


def image_columns(images: Sequence[Measured]) -> pa.Table:
    """Sizes, contrast and hashes of `images` in the contract's types, and `colour_range`."""
    width = pa.array([m.width for m in images], pa.int32())
    height = pa.array([m.height for m in images], pa.int32())
    grey32, grey64 = _stack([m.grey32 for m in images], 32), _stack([m.grey64 for m in images], 64)
    trimmed32 = _stack([m.trimmed32 for m in images], 32)
    trimmed64 = _stack([m.trimmed64 for m in images], 64)
    return pa.table(
        {
            "width": width,
            "height": height,
            "aspect": pc.divide(width.cast(pa.float32()), height.cast(pa.float32())),
            "phash64": hashes.packed(hashes.hash_pixels(grey32, 8)),
            "phash256": hashes.packed(hashes.hash_pixels(grey64, 16)),
            "phash64_trimmed": hashes.packed(hashes.hash_pixels(trimmed32, 8)),
            "phash256_trimmed": hashes.packed(hashes.hash_pixels(trimmed64, 16)),
            "contrast": pa.array(hashes.contrast(grey32), pa.float32()),
            "colour_range": pa.array([m.colour_range for m in images], pa.int32()),
        }
    )


def _stack(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    return np.stack(pictures) if pictures else np.empty((0, side, side), np.uint8)
