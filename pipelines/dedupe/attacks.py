"""Changes that copies on the web have gone through, to measure what an index catches."""

import io
import math
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

from pipelines.dedupe.variants import centred

Attack = Callable[[Image.Image], Image.Image]


def _reencoded(encoding: str, quality: int) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, encoding, quality=quality)
        stream.seek(0)
        return Image.open(stream).convert("RGB")

    return attack


def _scaled(horizontal: float, vertical: float) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        size = (max(1, round(image.width * horizontal)), max(1, round(image.height * vertical)))
        return image.resize(size, Image.Resampling.BICUBIC)

    return attack


def _cropped(percent: float) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        left = 1 - percent / 100
        return centred(image, round(image.width * left), round(image.height * left))

    return attack


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return centred(image, side, side)


def _bordered(colour: str) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        return ImageOps.expand(image, max(1, round(min(image.size) * 0.08)), colour)

    return attack


def _brightened(factor: float) -> Attack:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


ATTACKS: dict[str, Attack] = {
    "none": lambda image: image,
    "jpeg_75": _reencoded("JPEG", 75),
    "jpeg_30": _reencoded("JPEG", 30),
    "webp_50": _reencoded("WEBP", 50),
    "half_size": _scaled(0.5, 0.5),
    "double_size": _scaled(2, 2),
    "squash": _scaled(1, 0.75),
    "mirror": ImageOps.mirror,
    "mirror_half_jpeg_75": lambda image: _reencoded("JPEG", 75)(
        _scaled(0.5, 0.5)(ImageOps.mirror(image))
    ),
    "crop_4": _cropped(4),
    "crop_8": _cropped(8),
    "centre_square": _square,
    "border_black": _bordered("black"),
    "border_white": _bordered("white"),
    "darker": _brightened(0.8),
    "brighter": _brightened(1.2),
}


def upper_bound(events: int, trials: int) -> float:
    """Upper end of the 95 % Wilson score interval of a proportion; 1 without trials."""
    if not trials:
        return 1.0
    z = 1.96
    share = events / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return min(1.0, (middle + spread) / (1 + z * z / trials))
