import io
import struct
import zlib

import numpy as np
import pytest
from fetched_corpus import artwork, encoded, on_white
from PIL import Image

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, decode, encode, exhibit, shrink
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


# What a camera stored so that the tag brings the picture upright (EXIF 2.32, table 6).
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int) -> None:
    turn = STORED[orientation]
    stored = corners() if turn is None else corners().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = open_bytes(encoded(stored, "PNG", exif=exif))
    assert found.size == (48, 32)
    assert found.tobytes() == corners().tobytes()


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


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16).repeat(4, axis=0)
    found = open_bytes(encoded(Image.fromarray(levels), "PNG"))
    assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 0x40, 0x80, 0xFF]


def test_cmyk_jpeg_has_the_right_colours() -> None:
    data = encoded(corners().convert("CMYK"), "JPEG", quality=95)
    found = np.asarray(open_bytes(data)).astype(int)
    assert np.abs(found - np.asarray(corners()).astype(int)).mean() < 12


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_bytes(data).getpixel((3, 3)) == (255, 0, 0)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [8001, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore:Image size")
def test_bombs_are_refused_by_their_header(side: int) -> None:
    assert refused(png_header(side, side)) == Reason.TOO_MANY_PIXELS


def test_other_formats_and_text_are_no_images() -> None:
    assert refused(encoded(corners(), "TIFF")) == Reason.NOT_AN_IMAGE
    assert refused(b"<html>not here</html>") == Reason.NOT_AN_IMAGE
    assert refused(b"") == Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_files_are_refused(encoding: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), encoding)
    assert open_bytes(data).size == (64, 64)
    for percent in range(2, 98, 5):
        assert refused(data[: len(data) * percent // 100]) in (
            Reason.DAMAGED_IMAGE,
            Reason.NOT_AN_IMAGE,
        )


def test_shrinking_keeps_the_aspect_and_never_enlarges() -> None:
    assert shrink(Image.new("RGB", (600, 400)), 256).size == (384, 256)
    assert shrink(Image.new("RGB", (300, 600)), 256).size == (256, 512)
    assert shrink(Image.new("RGB", (72, 72)), 256).size == (72, 72)


def test_stored_images_are_deterministic_and_png_is_lossless() -> None:
    image = on_white(artwork()["rocket"])
    for encoding in ("png", "jpeg", "webp"):
        assert encode(image, encoding, 90) == encode(image.copy(), encoding, 90)
    assert open_bytes(encode(image, "png", 90)).tobytes() == image.tobytes()


def test_exhibits_are_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), on_white(artwork()["rocket"])):
        data = exhibit(image)
        assert len(data) < 3000
        assert max(Image.open(io.BytesIO(data)).size) <= 64
