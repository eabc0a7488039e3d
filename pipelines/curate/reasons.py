"""Why curation drops a pair: the counters, the reject table and the tests use these words."""

from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc


class Reason(StrEnum):
    """The one reason of a dropped row, in the order in which the rules are asked."""

    CAPTION_BOILERPLATE = "caption_boilerplate"
    CAPTION_TOO_SHORT = "caption_too_short"
    CAPTION_TOO_LONG = "caption_too_long"
    CAPTION_REPETITIVE = "caption_repetitive"
    LANGUAGE = "language"
    TOO_FEW_BYTES = "too_few_bytes"
    NOT_AN_IMAGE = "not_an_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    DAMAGED_IMAGE = "damaged_image"
    ASPECT_RATIO = "aspect_ratio"
    IMAGE_TOO_SMALL = "image_too_small"
    SINGLE_COLOUR = "single_colour"
    LOW_INFORMATION = "low_information"


def dropped_where(mask: pa.BooleanArray, reason: Reason) -> pa.StringArray:
    """`reason` where `mask` is true, null (keep) elsewhere."""
    return pc.if_else(mask, pa.scalar(str(reason)), pa.scalar(None, pa.string()))
