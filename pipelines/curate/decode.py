"""Safe decoding of images from the web, and the small copies that are made of them.

Every picture becomes 8-bit sRGB: the first frame, upright by its EXIF orientation, alpha
composited on white.
"""

import io
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, Image, UnidentifiedImageError

from pipelines.curate.colour import is_srgb, to_srgb
from pipelines.curate.jpeg import FORMATS, load_jpeg
from pipelines.curate.reasons import Reason

EXHIBIT_SIDE = 64
_EXHIBIT_QUALITY = 60
_MAX_FRAMES = 1000
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
_ORIENTATION = 0x0112
# EXIF 2.32, table 6: what brings the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)
# One thread per core would take a stack each from the decoder's memory.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class DecodeError(ValueError):
    """An image that is refused.

    Attributes:
        reason: the enumerated reason.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason


class OutOfMemory(Exception):  # noqa: N818 - a state of the process, not an error of the image
    """There was not enough memory for this image."""


def decode(
    data: bytes,
    *,
    formats: Sequence[str],
    max_pixels: int,
    at_least: int | None = None,
    max_frames: int = _MAX_FRAMES,
) -> Image.Image:
    """Decode image bytes to upright 8-bit sRGB, in this process.

    Args:
        data: the file.
        formats: Pillow's names of the formats that may be decoded; no other decoder is tried.
        max_pixels: most pixels that the header may announce; checked before any is decoded.
        at_least: where the format allows it, decode at a smaller scale with this many pixels
            per side or more (JPEG only).
        max_frames: most frames that the header may announce.

    Raises:
        DecodeError: if the data is no image of these formats, too large, or damaged.
        OutOfMemory: if there was not enough memory.
    """
    return decode_sized(
        data, formats=formats, max_pixels=max_pixels, at_least=at_least, max_frames=max_frames
    )[0]


def decode_sized(
    data: bytes,
    *,
    formats: Sequence[str],
    max_pixels: int,
    at_least: int | None = None,
    max_frames: int = _MAX_FRAMES,
) -> tuple[Image.Image, tuple[int, int]]:
    """As `decode`; and width and height of the upright original, whatever scale was decoded."""
    found, size = _decoded(data, formats, max_pixels, at_least, max_frames)
    return (found if isinstance(found, Image.Image) else Image.fromarray(found)), size


def decode_pixels(
    data: bytes,
    *,
    formats: Sequence[str],
    max_pixels: int,
    at_least: int | None = None,
    max_frames: int = _MAX_FRAMES,
) -> tuple[np.ndarray, tuple[int, int]]:
    """As `decode_sized`, as uint8 [H, W, 3]: of most JPEG files without a copy."""
    found, size = _decoded(data, formats, max_pixels, at_least, max_frames)
    return np.asarray(found), size


def _decoded(
    data: bytes, formats: Sequence[str], max_pixels: int, at_least: int | None, max_frames: int
) -> tuple[Image.Image | np.ndarray, tuple[int, int]]:
    image = _opened(data, formats, max_pixels)
    size = image.size
    try:
        frames = getattr(image, "n_frames", 1)
        if frames > max_frames:
            raise DecodeError(Reason.TOO_MANY_FRAMES, f"{frames} frames, at most {max_frames}")
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        found, orientation = _upright(image, data)
    except DecodeError:
        raise
    except MemoryError as error:
        raise OutOfMemory from error
    # Hostile bytes make the decoders raise almost any exception; whichever it is costs this row.
    except Exception as error:
        if "out of memory" in str(error):
            raise OutOfMemory from error
        detail = f"{type(error).__name__}: {error}"[:200]
        raise DecodeError(Reason.DAMAGED_IMAGE, detail) from error
    return found, (size[::-1] if orientation in _TURNED else size)


def _upright(image: Image.Image, data: bytes) -> tuple[Image.Image | np.ndarray, int]:
    """The sRGB pixels of an opened image, upright, and the orientation that they had."""
    raw_mode = _raw_mode(image)
    # Read before loading: what follows the pixels may replace it.
    profile = image.info.get("icc_profile")
    if image.format in FORMATS:
        pixels = load_jpeg(image, data)
    else:
        image.load()
        pixels = image
    orientation = _orientation(image)
    if isinstance(pixels, np.ndarray):
        if pixels.ndim == 3 and orientation not in _UPRIGHT and is_srgb(profile):
            return pixels, orientation
        pixels = Image.fromarray(pixels)
    srgb = to_srgb(pixels, profile, raw_mode)
    if orientation in _UPRIGHT:
        srgb = srgb.transpose(_UPRIGHT[orientation])
    return srgb, orientation


def _opened(data: bytes, formats: Sequence[str], max_pixels: int) -> Image.Image:
    """The image with its header read and its size accepted."""
    canvas = _webp_canvas(data)
    if canvas is not None and "WEBP" in formats:
        _check_size(*canvas, max_pixels)
    if not all(name in Image.OPEN for name in formats):
        Image.init()
    # AVIF is missing where Pillow was built without its decoder.
    known = [name for name in formats if name in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(data), formats=known)
    except UnidentifiedImageError as error:
        if _claimed_format(data) in known:
            raise DecodeError(Reason.DAMAGED_IMAGE, "the header cannot be read") from error
        found = data[:8].hex(" ")
        names = ", ".join(formats)
        raise DecodeError(Reason.NOT_AN_IMAGE, f"none of {names}: starts {found}") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(Reason.TOO_MANY_PIXELS, str(error)) from error
    except MemoryError as error:
        raise OutOfMemory from error
    except Exception as error:
        raise DecodeError(Reason.DAMAGED_IMAGE, str(error)[:200]) from error
    _check_size(*image.size, max_pixels)
    return image


def _claimed_format(data: bytes) -> str | None:
    """What it starts as; some decoders reject a damaged file as not being theirs."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    return next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(Reason.TOO_MANY_PIXELS, f"{width}x{height}, at most {max_pixels} pixels")


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Canvas of an extended WebP file (RFC 9649, section 2.7), for which Pillow allocates while
    it opens the file, before anybody can look at the size."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return None
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    return width, height


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or the EXIF data is broken."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as hostile as the pixels, but nothing of the picture is lost
        return 1


def _raw_mode(image: Image.Image) -> str | None:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    return arguments if isinstance(arguments, str) else None


def stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height at which an original of this size is stored."""
    shorter = min(width, height)
    if shorter <= short_side:
        return width, height
    return (
        max(1, round(width * short_side / shorter)),
        max(1, round(height * short_side / shorter)),
    )


def encode(pixels: np.ndarray, encoding: str, quality: int) -> bytes:
    """Encode uint8 [H, W, 3] as `png` (lossless), `jpeg` (4:4:4) or `webp`; equal input, equal
    bytes."""
    if encoding == "jpeg":
        return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", "444"))
    options = {"png": {"compress_level": 6}, "webp": {"quality": quality, "method": 4}}[encoding]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, encoding.upper(), **options)
    return stream.getvalue()


def thumbnail(image: Image.Image) -> Image.Image:
    """A picture of at most 64x64 pixels."""
    small = image.copy()
    small.thumbnail((EXHIBIT_SIDE, EXHIBIT_SIDE))
    return small


def exhibit(image: Image.Image) -> bytes:
    """A WebP picture of at most 64x64 pixels, about a kilobyte, for the tables of rejects."""
    return encode(np.asarray(thumbnail(image)), "webp", _EXHIBIT_QUALITY)
