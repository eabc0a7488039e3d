"""Changes that copies on the web have gone through, to measure what an index catches."""

import io
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

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


def _cut_corner(percent: float) -> Attack:
    """The left and the upper edge are lost, nothing of the others."""

    def attack(image: Image.Image) -> Image.Image:
        left, top = (round(side * percent / 100) for side in image.size)
        return image.crop((left, top, image.width, image.height))

    return attack


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return centred(image, side, side)


def _bordered(colour: str, percent: float = 8) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        return ImageOps.expand(image, max(1, round(min(image.size) * percent / 100)), colour)

    return attack


def _letterboxed(image: Image.Image) -> Image.Image:
    """Padded to a square with black bars."""
    side = max(image.size)
    return ImageOps.pad(image, (side, side), color="black")


def _brightened(factor: float) -> Attack:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def _gamma(exponent: float) -> Attack:
    levels = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return lambda image: image.point(levels * len(image.getbands()))


def _blurred(percent: float) -> Attack:
    """Gaussian of a radius in per cent of the shorter side."""

    def attack(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(min(image.size) * percent / 100))

    return attack


def _rotated(degrees: float) -> Attack:
    def attack(image: Image.Image) -> Image.Image:
        return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor="white")

    return attack


def _watermarked(image: Image.Image) -> Image.Image:
    """Half-transparent words across the middle, as picture agencies put them."""
    layer = Image.new("L", image.size)
    font = ImageFont.load_default(size=max(8, image.height // 8))
    middle = (image.width / 2, image.height / 2)
    ImageDraw.Draw(layer).text(middle, "SAMPLE PHOTO", 128, font, anchor="mm")
    return Image.composite(Image.new("RGB", image.size, "white"), image, layer)


def _captioned(image: Image.Image) -> Image.Image:
    """A line of words on a dark bar over the lowest tenth."""
    bar = max(10, image.height // 10)
    found = image.copy()
    draw = ImageDraw.Draw(found)
    draw.rectangle((0, image.height - bar, image.width, image.height), "black")
    font = ImageFont.load_default(size=max(8, bar * 2 // 3))
    draw.text((bar / 4, image.height - bar / 2), "Photo: somebody", "white", font, anchor="lm")
    return found


def _mirrored_and_halved(image: Image.Image) -> Image.Image:
    return _reencoded("JPEG", 75)(_scaled(0.5, 0.5)(ImageOps.mirror(image)))


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


ATTACKS: dict[str, Attack] = {
    "none": lambda image: image,
    "jpeg_90": _reencoded("JPEG", 90),
    "jpeg_75": _reencoded("JPEG", 75),
    "jpeg_50": _reencoded("JPEG", 50),
    "jpeg_30": _reencoded("JPEG", 30),
    "jpeg_10": _reencoded("JPEG", 10),
    "webp_50": _reencoded("WEBP", 50),
    "half_size": _scaled(0.5, 0.5),
    "double_size": _scaled(2, 2),
    "squash": _scaled(1, 0.75),
    "mirror": ImageOps.mirror,
    "mirror_half_jpeg_75": _mirrored_and_halved,
    "crop_3": _cropped(3),
    "crop_5": _cropped(5),
    "crop_8": _cropped(8),
    "crop_10": _cropped(10),
    "crop_12": _cropped(12),
    "crop_15": _cropped(15),
    "corner_3": _cut_corner(3),
    "corner_6": _cut_corner(6),
    "corner_10": _cut_corner(10),
    "centre_square": _square,
    "border_black": _bordered("black"),
    "border_white": _bordered("white"),
    "letterbox": _letterboxed,
    "watermark": _watermarked,
    "caption_bar": _captioned,
    "darker": _brightened(0.8),
    "brighter": _brightened(1.2),
    "gamma_0.6": _gamma(0.6),
    "gamma_1.6": _gamma(1.6),
    "grey": _grey,
    "blur_1": _blurred(1),
    "blur_2": _blurred(2),
    "rotate_1": _rotated(1),
    "rotate_2": _rotated(2),
    "rotate_5": _rotated(5),
}
