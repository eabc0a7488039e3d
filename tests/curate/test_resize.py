import numpy as np
import pytest
from PIL import Image

from pipelines.curate.resize import lanczos


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(64, 192, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(341, 256), (100, 90), (64, 200)])
def test_levels_are_pillows_but_for_rounding(size: tuple[int, int]) -> None:
    # Noise is the worst case: the filter goes over the ends of the scale.
    found = lanczos(pixels(384, 512), *size)
    library = Image.fromarray(pixels(384, 512)).resize(size, Image.Resampling.LANCZOS)
    assert found.shape == (size[1], size[0], 3)
    errors = np.abs(found.astype(int) - np.asarray(library))
    assert errors.max() <= 2
    assert (errors <= 1).mean() > 0.999


def test_the_same_size_is_the_same_array() -> None:
    picture = pixels(20, 30)
    assert lanczos(picture, 30, 20) is picture
