import io

import numpy as np
import pytest
from fetched_corpus import artwork, encoded, on_white
from PIL import Image, ImageCms
from torture_images import png

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, decode, encode, exhibit, stored_size
from pipelines.curate.reasons import Reason

CONFIG = CurateConfig()


def open_bytes(data: bytes) -> Image.Image:
    return decode(data, formats=CONFIG.formats, max_pixels=CONFIG.max_pixels)


def refused(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        open_bytes(data)
    return caught.value.reason


def corners() -> Image.Image:
    """Four colours, so that every turn and mirroring shows."""
    image = Image.new("RGB", (48, 32))
    for box, colour in (
        ((0, 0, 24, 16), "red"),
        ((24, 0, 48, 16), "lime"),
        ((0, 16, 24, 32), "blue"),
        ((24, 16, 48, 32), "white"),
    ):
        image.paste(colour, box)
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    rgba = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    rgba.paste((0, 0, 0, 255), (4, 4, 8, 8))
    if mode == "P":
        image = rgba.convert("RGB").quantize(2)
        empty = image.getpixel((0, 0))
        image = Image.new("P", (16, 16), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (4, 4, 8, 8))
        data = encoded(image, "PNG", transparency=0)
        assert empty is not None
    else:
        data = encoded(rgba.convert(mode) if mode != "PA" else rgba.quantize(4), "PNG")
    found = open_bytes(data)
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert max(found.getpixel((5, 5))) < 10


def test_half_transparent_pixels_are_blended() -> None:
    found = open_bytes(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128))))
    assert found.getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize("side", [8001, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore:Image size")
def test_bombs_are_refused_by_their_header(side: int) -> None:
    assert refused(png(side, side, 8, 2, b"\0" * 100)) == Reason.TOO_MANY_PIXELS


def test_profiles_that_are_srgb_by_another_maker_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    other_name = srgb.tobytes().replace(b"sRGB", b"mine")
    data = encoded(corners(), icc_profile=other_name)
    assert open_bytes(data).tobytes() == corners().tobytes()


@pytest.mark.parametrize("formats", [("JPEG", "GIF"), ("NONE",)])
def test_a_format_that_is_not_allowed_or_not_known_is_no_image(formats: tuple[str, ...]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(encoded(corners()), formats=formats, max_pixels=CONFIG.max_pixels)
    assert caught.value.reason == Reason.NOT_AN_IMAGE


def test_other_formats_and_text_are_no_images() -> None:
    assert refused(encoded(corners(), "TIFF")) == Reason.NOT_AN_IMAGE
    assert refused(b"<html>not here</html>") == Reason.NOT_AN_IMAGE
    assert refused(b"") == Reason.NOT_AN_IMAGE


def test_shrinking_keeps_the_aspect_and_never_enlarges() -> None:
    assert stored_size(600, 400, 256) == (384, 256)
    assert stored_size(300, 600, 256) == (256, 512)
    assert stored_size(72, 72, 256) == (72, 72)


def test_stored_images_are_deterministic_and_png_is_lossless() -> None:
    pixels = np.asarray(on_white(artwork()["rocket"]))
    for encoding in ("png", "jpeg", "webp"):
        assert encode(pixels, encoding, 90) == encode(pixels.copy(), encoding, 90)
    assert np.array_equal(np.asarray(open_bytes(encode(pixels, "png", 90))), pixels)


def test_exhibits_are_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), on_white(artwork()["rocket"])):
        data = exhibit(image)
        assert len(data) < 3000
        assert max(Image.open(io.BytesIO(data)).size) <= 64
