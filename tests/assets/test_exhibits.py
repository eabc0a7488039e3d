"""Pictures as metadata stay small and readable."""

import base64
import io
import random
import re
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from assets.lib import exhibits
from assets.lib.exhibits import Captioned
from pipelines import parquet, schemas
from pipelines.ledger import Finished, Funnel
from pipelines.shards import rejected


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


def _reject(directory: Path, *rows: tuple[str, bytes | None]) -> str:
    """Rows with a reason and perhaps a picture; the directory."""
    uids = pa.record_batch({"uid": pa.array([bytes([i]) * 16 for i in range(len(rows))])})
    uids = uids.cast(pa.schema([pa.field("uid", pa.binary(16))]))
    reasons, images = [reason for reason, _ in rows], [image for _, image in rows]
    details = [f"number {i}" for i in range(len(rows))]
    found = rejected(uids, schemas.Stage.CURATE, reasons, details, images)
    parquet.write(str(directory / "part-00000.parquet"), [found], schemas.REJECTS)
    return str(directory)


def test_a_sheet_of_rejects_shows_some_of_every_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Captioned] = []
    sheet = exhibits.contact_sheet

    def seen(pictures: list[Captioned], columns: int) -> bytes:
        shown.extend(pictures)
        return sheet(pictures, columns)

    monkeypatch.setattr(exhibits, "contact_sheet", seen)
    rows = [("one_colour", _noise(40))] * 20 + [("too_short", None), ("no_photo", _noise(40))]
    found = exhibits.reject_sheets(_reject(tmp_path, *rows), each=8, most=64)
    words = [picture.caption.split(":")[0] for picture in shown]
    assert words == ["no_photo"] + ["one_colour"] * 8
    assert len(found["dropped"].value) < 60_000 + 100
    assert _decode(found["dropped"].value).height > 72


def test_a_sheet_of_rejects_has_a_limit_that_the_reasons_share(tmp_path: Path) -> None:
    rows = [(f"reason_{i % 5}", _noise(40)) for i in range(50)]
    sheet = exhibits.reject_sheets(_reject(tmp_path, *rows), each=8, most=10)["dropped"].value
    # Two of each of five reasons, eight to a row.
    assert _decode(sheet).size == (8 * 78 + 6, 2 * 100 + 6)


def test_no_sheet_without_pictures(tmp_path: Path) -> None:
    assert exhibits.reject_sheets(_reject(tmp_path, ("too_short", None))) == {}
    assert exhibits.reject_sheets(str(tmp_path / "nothing")) == {}


def test_examples_of_every_reason(tmp_path: Path) -> None:
    rejects = _reject(tmp_path, *[("too_short", None)] * 9, ("no_photo", None))
    finished = Finished("d", "f", "c", 1, 1, Funnel(11, 1, {"too_short": 9, "no_photo": 1}))
    table = exhibits.reject_examples(finished, rejects)["examples of rows dropped"]
    reasons = [record.data["reason"] for record in table.records]
    assert reasons == ["no_photo", "too_short", "too_short", "too_short"]
    assert table.records[0].data["detail"] == "number 9"
    kept = Finished("d", "f", "c", 1, 1, Funnel(1, 1))
    assert exhibits.reject_examples(kept, rejects) == {}
