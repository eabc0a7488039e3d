"""Safe decoding of images from the web, and the small copies that are made of them.

Every picture becomes 8-bit RGB: the first frame, upright by its EXIF orientation, alpha
composited on white.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.curate.reasons import Reason

EXHIBIT_SIDE = 64
_EXHIBIT_QUALITY = 60


class DecodeError(ValueError):
    """An image that is refused.

    Attributes:
        reason: the enumerated reason.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason


def decode(
    data: bytes, *, formats: Sequence[str], max_pixels: int, at_least: int | None = None
) -> Image.Image:
    """Decode image bytes to upright 8-bit RGB.

    Args:
        data: the file.
        formats: Pillow's names of the formats that may be decoded; no other decoder is tried.
        max_pixels: most pixels that the header may announce; checked before any is decoded.
        at_least: where the format allows it, decode at a smaller scale with this many pixels
            per side or more (JPEG only).

    Raises:
        DecodeError: if the data is no image of these formats, too large, or damaged.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=list(formats))
    except UnidentifiedImageError as error:
        found = data[:8].hex(" ")
        raise DecodeError(Reason.NOT_AN_IMAGE, f"none of {formats}: starts {found}") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(Reason.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:
        raise DecodeError(Reason.DAMAGED_IMAGE, str(error)[:200]) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise DecodeError(Reason.TOO_MANY_PIXELS, f"{size}, at most {max_pixels} pixels")
    try:
        if at_least is not None:
            image.draft("RGB", (at_least, at_least))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    # Hostile bytes make the decoders raise almost any exception; whichever it is costs this row.
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"[:200]
        raise DecodeError(Reason.DAMAGED_IMAGE, detail) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Scale down so that the shorter side has `short_side` pixels; smaller images stay."""
    shorter = min(image.size)
    if shorter <= short_side:
        return image
    width, height = (max(1, round(side * short_side / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def encode(image: Image.Image, encoding: str, quality: int) -> bytes:
    """Encode RGB as `png` (lossless), `jpeg` (4:4:4) or `webp`; equal input, equal bytes."""
    options = {
        "png": {"compress_level": 6},
        "jpeg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality, "method": 4},
    }[encoding]
    stream = io.BytesIO()
    image.save(stream, encoding.upper(), **options)
    return stream.getvalue()


def exhibit(image: Image.Image) -> bytes:
    """A WebP picture of at most 64x64 pixels, about a kilobyte, for the tables of rejects."""
    small = image.copy()
    small.thumbnail((EXHIBIT_SIDE, EXHIBIT_SIDE))
    return encode(small, "webp", _EXHIBIT_QUALITY)
