import io

import numpy as np
import pytest
from PIL import Image
from token_corpus import picture

from pipelines.encode.image_tokens import crop, decode

UID = bytes(range(16))


def opened(index: int, size: tuple[int, int]) -> Image.Image:
    return decode(picture(index, size))


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row: a crop tells where it came from."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def test_crop_0_of_the_wanted_size_is_the_exact_centre() -> None:
    found = crop(ramp(100, 64), UID, 0, 64)
    assert found.shape == (64, 64, 3)
    np.testing.assert_array_equal(found[0, :, 0], np.arange(18, 82))
    np.testing.assert_array_equal(found[:, 0, 1], np.arange(64))


def test_crop_0_resizes_the_short_side() -> None:
    source = opened(1, (90, 60))
    wanted = source.resize((48, 32), Image.Resampling.LANCZOS).crop((8, 0, 40, 32))
    np.testing.assert_array_equal(crop(source, UID, 0, 32), np.asarray(wanted))


@pytest.mark.parametrize("size", [(40, 32), (32, 64), (31, 33), (8, 100), (300, 200), (1, 1)])
def test_any_shape_gives_a_full_crop(size: tuple[int, int]) -> None:
    for crop_id in range(4):
        assert crop(opened(2, size), UID, crop_id, 32).shape == (32, 32, 3)


def test_listing_2_stays_in_its_bounds_and_reaches_them() -> None:
    # 200 x 100, size 64: the square is 100 wide at column 37 ... 62, scaled to 64 ... 72.
    image = ramp(200, 100)
    lefts, scales = [], []
    for crop_id in range(1, 200):
        found = crop(image, UID, crop_id, 64).astype(float)
        scales.append(np.diff(found[0, :, 0]).mean())
        lefts.append(found[0, 0, 0])
    assert min(scales) >= 100 / 72 - 0.05
    assert max(scales) <= 100 / 64 + 0.05
    assert max(scales) - min(scales) > 0.1
    assert 37 <= min(lefts) < 42
    assert 60 < max(lefts) <= 62 + (72 - 64) * 100 / 72 + 1
    assert all(np.diff(crop(image, UID, k, 64)[0, :, 0].astype(int)).min() > 0 for k in range(9))


def test_crops_depend_on_uid_and_number_alone() -> None:
    image = opened(3, (80, 60))
    once = [crop(image, UID, k, 32) for k in range(6)]
    again = [crop(image, UID, k, 32) for k in reversed(range(6))][::-1]
    np.testing.assert_array_equal(once, again)
    assert len({found.tobytes() for found in once}) > 4
    other = [crop(image, bytes(16), k, 32) for k in range(6)]
    np.testing.assert_array_equal(once[0], other[0])
    assert any((a != b).any() for a, b in zip(once[1:], other[1:], strict=True))


def test_first_draws_are_pinned() -> None:
    # A change here changes published tokens: raise the encode stage's code version with it.
    assert crop(ramp(200, 100), UID, 1, 64)[0, 0].tolist() == [65, 7, 0]
    assert crop(ramp(100, 200), UID, 2, 64)[0, 0].tolist() == [1, 55, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_decodes_to_rgb(mode: str) -> None:
    stream = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new(mode, (5, 4)).save(stream, kind)
    assert decode(stream.getvalue()).mode == "RGB"


@pytest.mark.parametrize("data", [b"", b"text", picture(1)[:60], picture(1)[:-60]])
def test_broken_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=": "):
        decode(data)
