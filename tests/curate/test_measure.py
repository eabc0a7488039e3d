import dataclasses
import io

import imagehash
import numpy as np
import pytest
from fetched_corpus import artwork, encoded, on_white
from PIL import Image

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import decode, stored_size
from pipelines.curate.images import image_columns, image_reasons
from pipelines.curate.measure import Limits, measure, working_side
from pipelines.dedupe import hashes

CONFIG = CurateConfig()
LIMITS = Limits(CONFIG.formats, CONFIG.max_pixels, CONFIG.max_frames, 0.5, 2.0, 256)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Amplitudes that fall with the frequency, as in photographs, and a drawing's edges."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(width)[None], np.fft.fftfreq(height)[:, None])
    falling = np.maximum(frequency, 1 / width) ** -1.4
    phases = rng.normal(size=(3, height, width)) + 1j * rng.normal(size=(3, height, width))
    levels = np.fft.ifft2(phases * falling).real
    levels += 2 * levels[:1]
    levels = 128 + 50 * levels / levels.std(axis=(1, 2), keepdims=True)
    image = Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy())
    drawing = on_white(artwork()[sorted(artwork())[seed * 37]])
    image.paste(drawing.resize((width // 4, height // 3)), (width // 3, height // 4))
    return image


def bits(hashed: np.ndarray) -> np.ndarray:
    return np.unpackbits(hashed[0]).astype(bool)


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1024, 768), (700, 1100), (1600, 1590), (500, 400)])
def test_the_working_size_changes_neither_hashes_nor_pictures_much(
    encoding: str, size: tuple[int, int]
) -> None:
    data = encoded(photo(*size), encoding, quality=90)
    found, full = measure(data, LIMITS), Image.open(io.BytesIO(data)).convert("RGB")
    assert (found.width, found.height) == size
    stored = stored_size(*full.size, 256)
    exact = np.asarray(full.resize(stored, Image.Resampling.LANCZOS)).astype(float)
    assert found.small.shape == (stored[1], stored[0], 3)
    error = ((found.small - exact) ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 40
    distance = bits(hashes.hash_pixels(found.grey32[None], 8)) != imagehash.phash(full).hash.flat
    assert distance.sum() <= 4


@pytest.mark.parametrize(("short_side", "hashed"), [(256, (341, 256)), (128, (512, 384))])
def test_hashes_are_those_of_the_library_on_the_pixels_that_are_hashed(
    short_side: int, hashed: tuple[int, int]
) -> None:
    data = encoded(photo(1024, 768), "JPEG", quality=90)
    limits = dataclasses.replace(LIMITS, short_side=short_side)
    found = measure(data, limits)
    picture = Image.fromarray(found.small)
    if short_side < 256:
        picture = decode(
            data, formats=CONFIG.formats, max_pixels=CONFIG.max_pixels, at_least=working_side(128)
        )
    assert picture.size == hashed
    for grey, size in ((found.grey32, 8), (found.grey64, 16)):
        assert np.array_equal(grey, hashes.grey_pixels([picture], size)[0])
        library = imagehash.phash(picture, size).hash.reshape(-1)
        assert np.array_equal(bits(hashes.hash_pixels(grey[None], size)), library)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_those_of_the_upright_original(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = measure(encoded(photo(1201, 801), "JPEG", exif=exif), LIMITS)
    upright = (1201, 801) if orientation in (1, 3) else (801, 1201)
    assert (found.width, found.height) == upright
    assert found.small.shape == (*stored_size(*upright, 256)[::-1], 3)
    assert min(found.small.shape[:2]) == 256


def test_pictures_of_a_ruled_out_shape_stay_small() -> None:
    found = measure(encoded(Image.new("RGB", (4000, 300), "navy")), LIMITS)
    assert (found.width, found.height) == (4000, 300)
    assert max(found.small.shape[:2]) == 64


def test_a_plain_border_is_cut_for_the_trimmed_hashes_only() -> None:
    bordered = Image.new("RGB", (1100, 900), "white")
    bordered.paste(photo(900, 700), (100, 100))
    found, bare = measure(encoded(bordered), LIMITS), measure(encoded(photo(900, 700)), LIMITS)
    trimmed = bits(hashes.hash_pixels(found.trimmed32[None], 8))
    assert (trimmed != bits(hashes.hash_pixels(bare.grey32[None], 8))).sum() <= 6
    assert not np.array_equal(found.grey32, found.trimmed32)
    assert bare.trimmed32 is bare.grey32


def test_the_limits_of_the_aspect_belong_to_what_is_kept() -> None:
    config = dataclasses.replace(CONFIG, min_aspect=0.7, max_aspect=1.6, min_side=1)
    sizes = [(700, 1000), (1600, 1000), (699, 1000), (1601, 1000)]
    found = [measure(encoded(photo(*size), "PNG"), LIMITS) for size in sizes]
    reasons = image_reasons(image_columns(found), config).to_pylist()
    assert reasons == [None, None, "aspect_ratio", "aspect_ratio"]
