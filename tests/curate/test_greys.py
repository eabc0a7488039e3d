import numpy as np
import pytest
from PIL import Image

from pipelines.curate.greys import luma, small_greys

SIDES = (32, 64)


@pytest.mark.parametrize(
    "shape",
    [
        (256, 341),
        (341, 256),
        (256, 256),
        (512, 384),
        (31, 700),
        (5, 5),
        (64, 32),
        (1, 9),
        (637, 2),
        (900, 9),
        (9, 1),
    ],
)
@pytest.mark.parametrize("kind", ["noise", "black and white", "gradient"])
def test_small_greys_are_those_of_pillow(shape: tuple[int, int], kind: str) -> None:
    grey = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    if kind == "black and white":
        grey = np.where(grey > 127, np.uint8(255), np.uint8(0))
    if kind == "gradient":
        grey = np.sort(grey, axis=1)
    for side, found in zip(SIDES, small_greys(grey, SIDES), strict=True):
        library = Image.fromarray(grey).resize((side, side), Image.Resampling.LANCZOS)
        assert np.array_equal(found, np.asarray(library))


def test_a_part_of_a_picture_gives_the_same_as_its_copy() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
    part = grey[20:250, 33:390]
    for found, copied in zip(
        small_greys(part, SIDES), small_greys(part.copy(), SIDES), strict=True
    ):
        assert np.array_equal(found, copied)


def test_luma_is_that_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(luma(pixels), np.asarray(Image.fromarray(pixels).convert("L")))
