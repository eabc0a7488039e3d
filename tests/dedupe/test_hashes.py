import time
from collections.abc import Callable

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from fetched_corpus import artwork, on_white
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms

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


MODES = ("RGB", "L", "RGBA", "1", "P", "CMYK", "LA", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "PA")


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` (RGBA) in another mode, those that Pillow converts to in one step or in two."""
    if mode in ("LA", "PA", "RGBA"):
        return image.convert(mode)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image.convert("RGB"), *profiles, outputMode="LAB")
    return image.convert("RGB").convert(mode)


def test_hashes_of_random_pictures_of_every_mode_and_size_are_the_library_s() -> None:
    rng = np.random.default_rng(0)
    images = []
    for index in range(50 * len(MODES)):
        shape = tuple(rng.integers(1, 90, 2))
        noise = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
        image = Image.fromarray(noise).resize(tuple(rng.integers(1, 150, 2)))
        images.append(in_mode(image, MODES[index % len(MODES)]))
    assert {image.mode for image in images} == set(MODES)
    found = []
    for image in images:
        try:
            imagehash.phash(image)
            found.append(image)
        except ValueError:  # a mode that cannot be made grey: ours says the same
            with pytest.raises(ValueError, match="conversion"):
                hashes.phash([image])
    assert len(found) >= 50 * (len(MODES) - 1)
    assert_identical(found)


def near_ties(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Small pictures of which many coefficients equal, or nearly equal, the median."""
    pictures: list[np.ndarray] = []
    flat = np.full((64, 64), 128, np.uint8)
    for index in range(count):
        picture = np.full((64, 64), rng.integers(0, 256), np.uint8)
        kind = index % 6
        if kind == 0:  # one pixel differs, by one level
            picture = flat.copy()
            picture[tuple(rng.integers(0, 64, 2))] += rng.integers(1, 3)
        elif kind == 1:  # symmetric left to right, or in both directions
            half = rng.integers(0, 256, (64, 32), dtype=np.uint8)
            picture = np.concatenate([half, half[:, ::-1]], axis=1)
            if index % 4 == 1:
                picture = np.concatenate([picture[:32], picture[31::-1]], axis=0)
        elif kind == 2:  # checkerboard, shifted, of two close levels
            y, x = np.mgrid[0:64, 0:64]
            step, shift = 2 ** rng.integers(0, 6), rng.integers(0, 64)
            picture = (128 + ((x + shift) // step + y // step) % 2).astype(np.uint8)
        elif kind == 3:  # antisymmetric about the middle level
            half = rng.integers(0, 256, (32, 64), dtype=np.uint8)
            picture = np.concatenate([half, 255 - half[::-1]], axis=0)
        elif kind == 4:  # rows or columns only
            line = rng.integers(0, 256, 64, dtype=np.uint8)
            picture = np.broadcast_to(line, (64, 64))
            picture = np.ascontiguousarray(picture.T if index % 4 else picture)
        else:  # the transposed picture is itself: pairs of equal coefficients
            noise = rng.integers(0, 128, (64, 64), dtype=np.uint8)
            picture = noise + noise.T
        pictures.append(picture)
    return pictures


def test_hashes_of_thousands_of_pictures_with_ties_are_the_library_s() -> None:
    rng = np.random.default_rng(2)
    large = near_ties(rng, 1200)
    small = [picture[:32, :32].copy() for picture in near_ties(rng, 1200)]
    assert_identical([Image.fromarray(picture) for picture in (*large, *small)])


def test_one_changed_pixel_changes_ours_as_it_does_the_library_s() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    images = []
    for _ in range(600):
        changed = base.copy()
        changed[tuple(rng.integers(0, 64, 2))] ^= rng.integers(1, 256)
        images.append(Image.fromarray(changed))
    assert_identical(images)


def test_both_hashes_at_once_are_those_of_each() -> None:
    images = [on_white(data) for data in list(artwork().values())[::200]]
    found = hashes.hash_both(images)
    assert (found.phash64 == hashes.phash(images, 8)).all()
    assert (found.phash256 == hashes.phash(images, 16)).all()
    assert (found.contrast == hashes.contrast(hashes.grey_pixels(images, 8))).all()


def test_the_library_s_loop_is_at_least_eight_times_slower() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 32, 32), dtype=np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]

    def seconds(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(5):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
        return min(taken)

    hashes.hash_pixels(pixels[:2], 8)
    ours = seconds(lambda: hashes.hash_pixels(pixels, 8))
    assert seconds(lambda: [imagehash.phash(picture) for picture in pictures]) >= 8 * ours


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
