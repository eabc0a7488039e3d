import numpy as np
import pytest
from fetched_corpus import artwork, on_white
from PIL import Image, ImageOps

from pipelines.dedupe.variants import crops, trim_border


def textured(width: int = 60, height: int = 40) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("colour", ["black", "white", "#336699"])
def test_an_added_border_is_trimmed_exactly(colour: str) -> None:
    image = textured()
    bordered = ImageOps.expand(image, (3, 7, 5, 1), colour)
    assert trim_border(bordered).tobytes() == image.tobytes()


def test_bars_above_and_below_may_have_different_colours() -> None:
    image = textured()
    page = Image.new("RGB", (60, 60), "black")
    page.paste(image, (0, 5))
    page.paste("white", (0, 45, 60, 60))
    assert trim_border(page).tobytes() == image.tobytes()


def test_a_picture_without_a_border_is_returned_itself() -> None:
    image = textured()
    assert trim_border(image) is image


def test_flat_and_almost_empty_pictures_are_not_trimmed() -> None:
    flat = Image.new("RGB", (50, 50), "white")
    dot = flat.copy()
    dot.paste("black", (24, 24, 27, 27))
    assert trim_border(flat) is flat
    assert trim_border(dot) is dot


def test_reference_parts_are_centred_crops() -> None:
    parts = crops(textured(100, 60), (10,))
    assert {name: part.size for name, part in parts.items()} == {
        "full": (100, 60),
        "centre": (60, 60),
        "crop_10": (90, 54),
    }


def test_a_reference_with_a_plain_margin_is_indexed_without_it_too() -> None:
    picture = on_white(artwork()["red heart"])
    parts = crops(picture, (3,))
    assert parts["trimmed"].height < picture.height


def test_cuts_lose_one_edge_or_two_that_meet() -> None:
    image = textured(100, 50)
    parts = {n: p for n, p in crops(image, (), (6,)).items() if n.startswith("cut_")}
    assert len(parts) == 8
    assert parts["cut_6_l"].tobytes() == image.crop((6, 0, 100, 50)).tobytes()
    assert parts["cut_6_b"].tobytes() == image.crop((0, 0, 100, 47)).tobytes()
    assert parts["cut_6_rt"].tobytes() == image.crop((0, 3, 94, 50)).tobytes()


def test_a_wide_border_is_trimmed_in_pieces() -> None:
    image = textured(60, 60)
    bordered = ImageOps.expand(image, (40, 70, 0, 33), "#abcdef")
    assert trim_border(bordered).tobytes() == image.tobytes()
