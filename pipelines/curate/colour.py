"""Any picture that a decoder gives to 8-bit sRGB, alpha composited on white."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# Colours along each axis on which a profile is tried, and the levels that two sRGB profiles of
# different makers may differ by.
_LATTICE = 9
_SAME = 2
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Pillow scales grey of fewer bits to 8, but not the level that the PNG declares transparent.
_GREY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}


def to_srgb(image: Image.Image, profile: bytes | None, raw_mode: str | None = None) -> Image.Image:
    """8-bit sRGB of a decoded image.

    Args:
        image: pixels in any of Pillow's modes.
        profile: the ICC profile inside the file. One that is broken or made for other channels
            is ignored, as browsers do.
        raw_mode: how the file stored its pixels, as Pillow's tile names it.
    """
    colour, alpha = _colour_and_alpha(image, raw_mode)
    transform = _transform(profile, colour.mode) if profile else None
    # CMYK without a profile: Pillow's plain conversion, which is what browsers show.
    srgb = colour.convert("RGB") if transform is None else transform.apply(colour)
    if alpha is None:
        return srgb
    white = Image.new("RGB", srgb.size, "white")
    white.paste(srgb, mask=alpha)
    return white


def is_srgb(profile: bytes | None) -> bool:
    """Whether RGB pixels of a file with this ICC profile stay as they are."""
    return not profile or _transform(profile, "RGB") is None


def _colour_and_alpha(
    image: Image.Image, raw_mode: str | None
) -> tuple[Image.Image, Image.Image | None]:
    """The picture as L, RGB or CMYK of 8 bits, and its alpha if it has any."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        levels = np.asarray(image)
        alpha = None if clear is None else Image.fromarray(((levels != clear) * 255).astype("u1"))
        return Image.fromarray((levels >> 8).astype(np.uint8)), alpha
    if image.mode in ("1", "L"):
        if isinstance(clear, int):
            clear *= _GREY_SCALES.get(raw_mode or "", 1)
            alpha = image.convert("L").point([0 if level == clear else 255 for level in range(256)])
            return image.convert("L"), alpha
        return image.convert("L"), None
    if image.has_transparency_data:
        grey = image.mode in ("LA", "La")
        straight = image.convert("LA" if grey else "RGBA")
        return straight.convert("L" if grey else "RGB"), straight.getchannel("A")
    return (image, None) if image.mode in ("RGB", "CMYK") else (image.convert("RGB"), None)


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from `profile` to sRGB; None if it is broken, of other channels, or sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent(ImageCms.getDefaultIntent(source)),
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB" and _changes_nothing(transform):
        return None
    return transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours over the whole cube stay: many files carry a profile that is sRGB itself."""
    axis = np.linspace(0, 255, _LATTICE).astype(np.uint8)
    colours = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(_LATTICE, -1, 3)
    after = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(after.astype(int) - colours).max()) <= _SAME
