import imagehash
import numpy as np
import pyarrow as pa
import pytest
from fetched_corpus import artwork, on_white
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipelines.dedupe import hashes

SIZES = (8, 16)


def library(images: list[Image.Image], size: int) -> np.ndarray:
    return np.stack([np.packbits(imagehash.phash(image, size).hash) for image in images])


def adversarial() -> list[Image.Image]:
    """Pictures whose coefficients tie with the median, or nearly."""
    y, x = np.mgrid[0:64, 0:64]
    patterns = [np.full((64, 64), level) for level in (0, 1, 127, 255)]
    patterns += [((x // p + y // p) % 2) * 255 for p in (1, 2, 3, 4, 8, 16, 32)]
    patterns += [(x // p % 2) * 255 for p in (1, 2, 4, 8)] + [(y // p % 2) * 255 for p in (1, 8)]
    patterns += [x * 4, y * 4, x + y, np.abs(x - 31.5) * 8, (x == 31) * 255, (x + y == 0) * 255]
    patterns += [128 + (x == 5) * (y == 9), np.hypot(x - 31.5, y - 31.5) * 5]
    pictures = [Image.fromarray(np.clip(p, 0, 255).astype(np.uint8)) for p in patterns]
    return pictures + [p.crop((0, 0, 64, 37)) for p in pictures]


def assert_identical(images: list[Image.Image]) -> None:
    for size in SIZES:
        expected = library(images, size)
        found = hashes.phash(images, size)
        wrong = np.flatnonzero((found != expected).any(axis=1))
        assert not len(wrong), f"{len(wrong)} of {len(images)} differ at hash size {size}"


def test_hashes_of_random_pictures_of_every_mode_are_the_library_s() -> None:
    rng = np.random.default_rng(0)
    images = []
    for index in range(300):
        shape = tuple(rng.integers(1, 90, 2))
        noise = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
        image = Image.fromarray(noise).resize(tuple(rng.integers(1, 150, 2)))
        images.append(image.convert(("RGB", "L", "RGBA", "1", "P", "CMYK")[index % 6]))
    assert_identical(images)


def test_hashes_of_adversarial_pictures_are_the_library_s() -> None:
    assert_identical(adversarial())


def test_hashes_of_artwork_are_the_library_s() -> None:
    assert_identical([on_white(data) for data in list(artwork().values())[::40]])


@settings(max_examples=150, deadline=None)
@given(arrays(np.uint8, (32, 32), elements=st.sampled_from([0, 1, 2, 128, 254, 255])))
def test_hashes_of_pictures_of_few_levels_are_the_library_s(pixels: np.ndarray) -> None:
    halves = np.concatenate([pixels[:, :16], pixels[:, 15::-1]], axis=1)
    assert_identical([Image.fromarray(p) for p in (pixels, halves, halves.T.copy())])


@pytest.mark.parametrize("size", SIZES)
def test_mirrored_hashes_are_those_of_the_mirrored_pixels(size: int) -> None:
    pictures = [on_white(data) for data in list(artwork().values())[::60]] + adversarial()
    pixels = hashes.grey_pixels(pictures, size)
    twins = [Image.fromarray(np.ascontiguousarray(p[:, ::-1])) for p in pixels]
    found = hashes.hash_pixels(pixels, size, mirrored=True)
    assert (found == library(twins, size)).all()
    assert (found != hashes.hash_pixels(pixels, size)).any(axis=1).mean() > 0.5


def test_no_pictures_give_no_hashes() -> None:
    assert hashes.phash([], 8).shape == (0, 8)
    none = hashes.grey_pixels([], 8)
    assert hashes.contrast(none).shape == hashes.undecided_bits(none, 8).shape == (0,)


def test_a_hash_of_one_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        hashes.phash([Image.new("L", (8, 8))], 1)


def test_half_the_bits_of_a_symmetric_picture_are_undecided() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    symmetric = np.concatenate([noise[:, :16], noise[:, 15::-1]], axis=1)
    decided, undecided = hashes.undecided_bits(np.stack([noise, symmetric]), 8)
    assert decided <= 6
    assert undecided >= 32


def test_hash_columns_survive_slices_and_chunks() -> None:
    hashed = np.arange(80, dtype=np.uint8).reshape(10, 8)
    column = hashes.packed(hashed)
    assert (hashes.unpacked(column.slice(3, 4)) == hashed[3:7]).all()
    chunked = pa.chunked_array([column.slice(0, 2), column.slice(5, 3)])
    assert (hashes.unpacked(chunked) == hashed[[0, 1, 5, 6, 7]]).all()
