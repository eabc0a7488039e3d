"""Image rules: functions over columns of measures, null to keep or a reason."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.columns import dropped_where
from pipelines.curate.config import CurateConfig
from pipelines.curate.measure import Measured
from pipelines.curate.reasons import Reason
from pipelines.dedupe import hashes


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
    # In the float64 of the limits; the stored column is float32.
    aspect = pc.divide(width.cast(pa.float64()), height.cast(pa.float64()))
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
    grey32, grey64 = (
        stacked([m.grey32 for m in images], 32),
        stacked([m.grey64 for m in images], 64),
    )
    trimmed32 = stacked([m.trimmed32 for m in images], 32)
    trimmed64 = stacked([m.trimmed64 for m in images], 64)
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


def stacked(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Grey pictures, uint8 [side, side] each, as uint8 [N, side, side]; there may be none."""
    return np.stack(pictures) if pictures else np.empty((0, side, side), np.uint8)
