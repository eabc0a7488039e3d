"""Pictures as metadata stay small and readable."""

import base64
import io
import random
import re

from PIL import Image

from assets.lib import exhibits
from assets.lib.exhibits import Captioned


def _noise(side: int) -> bytes:
    stream = io.BytesIO()
    data = random.Random(0).randbytes(side * side * 3)
    Image.frombytes("RGB", (side, side), data).save(stream, "PNG")
    return stream.getvalue()


def _decode(markdown: str) -> Image.Image:
    found = re.fullmatch(r"!\[\w+\]\(data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[2])))


def test_a_small_picture_is_kept_as_it_is() -> None:
    picture = _noise(16)
    markdown = exhibits.inline("noise", picture).value
    assert base64.b64encode(picture).decode() in markdown


def test_a_large_picture_is_shrunk_below_the_limit() -> None:
    markdown = exhibits.inline("noise", _noise(700), 40_000).value
    assert len(markdown) < 40_000 + 100
    assert _decode(markdown).width > 50


def test_a_contact_sheet_shows_every_picture_even_a_broken_one() -> None:
    pictures = [Captioned(_noise(40), f"number {i}") for i in range(10)]
    sheet = Image.open(io.BytesIO(exhibits.contact_sheet([*pictures, Captioned(b"no", "bad")], 4)))
    rows, columns = 3, 4
    assert sheet.width > columns * 72
    assert sheet.height > rows * 72
    x, y = 6 + 2 * 78 + 36, 6 + 2 * 100 + 36
    assert sheet.convert("RGB").getpixel((x, y)) == (238, 238, 238)
