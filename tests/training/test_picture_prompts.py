"""A given picture becomes the codes that the dataset would hold of it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageCms
from tiny_training import Finished
from torch import Tensor

from training.drawing.prompts import read_prompt
from training.errors import InputError
from training.models.dvae import DVAE
from training.models.loading import load_dvae

Pixels = npt.NDArray[np.uint8]
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def dvae(finished: Finished) -> DVAE:
    """Tells pictures apart by more than the few codes of a short training."""
    torch.manual_seed(0)
    return DVAE(load_dvae(finished.dvae).config).eval()


@pytest.fixture
def pixels() -> Pixels:
    """A picture of 24x16 whose halves, and whose sides, differ."""
    draw = np.random.default_rng(0)
    found = draw.integers(0, 256, (24, 16, 3), np.uint8)
    found[:12] //= 4
    found[:, :5, 0] = 255
    return found


def codes(path: Path, dvae: DVAE) -> Tensor:
    return read_prompt(path, dvae, 2, 0)[0].codes


def codes_of(pixels: Pixels, dvae: DVAE, path: Path) -> Tensor:
    """Of a plain 8-bit RGB file."""
    Image.fromarray(pixels).save(path, "PNG")
    return codes(path, dvae)


def test_what_is_transparent_is_white(dvae: DVAE, pixels: Pixels, tmp_path: Path) -> None:
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[6:20, 3:12] = 0
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(tmp_path / "a.png")
    on_white = np.where(alpha == 0, np.uint8(255), pixels)
    found = codes(tmp_path / "a.png", dvae)
    assert torch.equal(found, codes_of(on_white, dvae, tmp_path / "white.png"))
    # What lies below would be other codes.
    assert not torch.equal(found, codes_of(pixels, dvae, tmp_path / "hidden.png"))


def test_16_bits_keep_the_high_byte(dvae: DVAE, pixels: Pixels, tmp_path: Path) -> None:
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(tmp_path / "deep.png")
    found = codes(tmp_path / "deep.png", dvae)
    high = np.repeat(grey[..., None], 3, axis=2)
    assert torch.equal(found, codes_of(high, dvae, tmp_path / "high.png"))
    saturated = np.full_like(pixels, 255)
    assert not torch.equal(found, codes_of(saturated, dvae, tmp_path / "white.png"))


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_it_is_upright(
    dvae: DVAE, pixels: Pixels, tmp_path: Path, orientation: int, turns: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.ascontiguousarray(np.rot90(pixels, turns))
    found = codes(tmp_path / "turned.png", dvae)
    assert torch.equal(found, codes_of(upright, dvae, tmp_path / "upright.png"))
    assert not torch.equal(found, codes_of(pixels, dvae, tmp_path / "as_stored.png"))


def test_colours_are_those_of_its_profile(dvae: DVAE, pixels: Pixels, tmp_path: Path) -> None:
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The profile's red and blue primaries change places, and so do the colours.
    red, blue = (swapped.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
    data = bytearray(swapped)
    data[red : red + 4], data[blue : blue + 4] = data[blue : blue + 4], data[red : red + 4]
    # Far from the borders of what sRGB can show, which the two profiles would round apart.
    flat = np.full_like(pixels, (200, 120, 60))
    Image.fromarray(flat).save(tmp_path / "swapped.png", icc_profile=bytes(data))
    found = codes(tmp_path / "swapped.png", dvae)
    assert torch.equal(found, codes_of(flat[..., ::-1].copy(), dvae, tmp_path / "other.png"))
    assert not torch.equal(found, codes_of(flat, dvae, tmp_path / "as_stored.png"))


def bomb() -> bytes:
    """A PNG file of a few bytes whose header announces 10 gigapixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def whole() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (whole()[:-500], "truncated"),
        (bomb(), "pixels"),
        (b"", "none of JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "none of JPEG, PNG"),
    ],
    ids=["cut", "bomb", "empty", "PostScript"],
)
def test_what_cannot_be_read_is_one_sentence(
    dvae: DVAE, tmp_path: Path, data: bytes, why: str
) -> None:
    path = tmp_path / "given"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        codes(path, dvae)
    message = str(refused.value)
    assert message.startswith(f"{path} cannot be read as a picture (")
    assert why in message
    assert message.endswith("of at most 64,000,000 pixels")
    assert "\n" not in message


def test_a_file_that_is_not_there(dvae: DVAE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        codes(tmp_path / "none.png", dvae)
