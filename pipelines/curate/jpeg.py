"""Pixels of JPEG files, with the one warning of libjpeg that matters.

A file that was cut and then closed with an end marker decodes with a grey rest, and says so only
in a warning ("premature end of data segment"), which Pillow has no way to pass on. `simplejpeg`
raises it; it decodes with the same library as Pillow, to the same pixels at every scale.
"""

import numpy as np
import simplejpeg
from PIL import Image

FORMATS = ("JPEG", "MPO")
_COLOURS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# The second is the end marker where the next restart interval should begin.
_CUT = ("premature end", "found marker 0xd9 instead of")
_NO_MEMORY = "memory"
_LEAST_FACTOR = 8


class CutError(ValueError):
    """The data ends before the picture does."""


def load_jpeg(image: Image.Image, data: bytes) -> Image.Image | np.ndarray:
    """The pixels of an opened JPEG file, at the size that `image.draft` has set.

    Other damage than a missing rest is left to Pillow, which is as lenient as browsers are.

    Args:
        image: opened by Pillow, not loaded.
        data: the file.

    Returns:
        uint8 [H, W, 3] or, of grey files, [H, W]; the loaded image where Pillow decodes.

    Raises:
        CutError: if the data ends too early.
        MemoryError: if there is not enough memory.
        Exception: whatever Pillow raises for damaged files.
    """
    pixels = _pixels(image, data)
    width, height = image.size
    # Pillow alone knows how Adobe's inks are meant.
    if pixels is None or image.mode == "CMYK" or pixels.shape[:2] != (height, width):
        image.load()
        return image
    return pixels[..., 0] if image.mode == "L" else pixels


def _pixels(image: Image.Image, data: bytes) -> np.ndarray | None:
    """uint8 [H, W, C]; None if the file is damaged in another way than by a cut."""
    width, height = image.size
    options: dict[str, int] = {"min_width": width, "min_height": height}
    if image.mode == "CMYK":
        # Only to see whether it is cut.
        options = {"min_width": 1, "min_height": 1, "min_factor": _LEAST_FACTOR}
    try:
        found: np.ndarray = simplejpeg.decode_jpeg(data, _COLOURS[image.mode], **options)
    except ValueError as error:
        words = str(error).lower()
        if any(sign in words for sign in _CUT):
            raise CutError(str(error)) from error
        if _NO_MEMORY in words:
            raise MemoryError from error
        return None
    return found
