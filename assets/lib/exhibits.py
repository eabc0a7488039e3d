"""Small pictures for asset pages: contact sheets and plots as inline images.

Metadata lives in Dagster's event log, which every page load reads, so an asset's pictures stay
below `LIMIT_BYTES` together.
"""

import base64
import contextlib
import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from assets.lib import report
from pipelines import ledger, parquet, storage
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.publish.manifest import Manifest
from pipelines.schemas import Stage

if TYPE_CHECKING:
    from PIL import Image as PILImage

LIMIT_BYTES = 150_000
_CELL = 72
_LABEL = 22
_QUALITIES = (85, 70, 50, 30)
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_MOST_PIXELS = 64_000_000
_EXAMPLES_EACH = 3
_EXAMPLE = ("reason", "detail", "url", "caption_raw")
# A batch may drop most of its rows; the first ones tell enough.
_ROWS_LOOKED_AT = 20_000


@dataclass(frozen=True)
class Captioned:
    """One picture (encoded, as in the datasets) and the words below it."""

    image: bytes
    caption: str


def contact_sheet(pictures: Sequence[Captioned], columns: int = 8) -> bytes:
    """Pictures with their captions in a grid, as PNG; unreadable ones are grey."""
    from PIL import Image, ImageDraw, ImageFont

    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    step_x, step_y = _CELL + 6, _CELL + _LABEL + 6
    sheet = Image.new("RGB", (columns * step_x + 6, rows * step_y + 6), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=8)
    for index, picture in enumerate(pictures):
        x, y = 6 + index % columns * step_x, 6 + index // columns * step_y
        sheet.paste(_thumbnail(picture.image), (x, y))
        for line, text in enumerate(_wrapped(picture.caption)):
            draw.text((x, y + _CELL + 1 + 10 * line), text, fill="black", font=font)
    return _png(sheet)


def inline(name: str, picture: bytes, limit: int = LIMIT_BYTES) -> dg.MarkdownMetadataValue:
    """A picture as Markdown with the data inside, shrunk until it fits `limit` bytes."""
    from PIL import Image

    data, kind = picture, "png"
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    attempts = iter(_QUALITIES)
    while len(data) * 4 / 3 > limit:
        quality = next(attempts, None)
        if quality is None:
            image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))
            attempts = iter(_QUALITIES)
            continue
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        data, kind = stream.getvalue(), "jpeg"
    encoded = base64.b64encode(data).decode()
    return dg.MetadataValue.md(f"![{name}](data:image/{kind};base64,{encoded})")


def dataset_sheet(directory: str, count: int = 32) -> dict[str, dg.MarkdownMetadataValue]:
    """Metadata with the first `count` kept pictures of a dataset."""
    first = itertools.islice(rows(directory, ["image", "caption"]), count)
    shown = [Captioned(row["image"], row["caption"]) for row in first]
    return {"kept": inline("kept", contact_sheet(shown), 90_000)} if shown else {}


def samples(manifest: Manifest) -> dict[str, dg.MarkdownMetadataValue]:
    """Metadata with the sample pictures of a published version."""
    shown = [
        Captioned(storage.read_bytes(join(manifest.directory, path)), caption)
        for path, caption in manifest.samples.items()
    ]
    return {"samples": inline("samples", contact_sheet(shown), 90_000)} if shown else {}


def reject_sheets(
    directory: str, each: int = 8, most: int = 64
) -> dict[str, dg.MarkdownMetadataValue]:
    """Metadata with one sheet of at most `most` pictures: some of every reason, up to `each`."""
    by_reason: dict[str, list[Captioned]] = {}
    dropped = rows(directory, ["reason", "caption_raw", "image"])
    for row in itertools.islice(dropped, _ROWS_LOOKED_AT):
        shown = by_reason.setdefault(row["reason"], [])
        if row["image"] is not None and len(shown) < each:
            shown.append(Captioned(row["image"], f"{row['reason']}: {row['caption_raw'] or ''}"))
    pictured = [shown for _, shown in sorted(by_reason.items()) if shown][:most]
    fair = min(each, most // max(1, len(pictured)))
    flat = [picture for shown in pictured for picture in shown[:fair]]
    return {"dropped": inline("dropped", contact_sheet(flat, each), 60_000)} if flat else {}


def reject_examples(finished: Finished, directory: str) -> dict[str, dg.TableMetadataValue]:
    """Metadata with a few rows for every reason; nothing if no row was dropped.

    Args:
        finished: what the stage returned.
        directory: of its rejects, which is read until there are enough of each.
    """
    left = {r: min(count, _EXAMPLES_EACH) for r, count in finished.funnel.dropped.items()}
    examples: list[tuple[str, ...]] = []
    for row in rows(directory, [*_EXAMPLE]):
        if not any(left.values()):
            break
        if left.get(row["reason"], 0):
            left[row["reason"]] -= 1
            examples.append(tuple(row[name] or "" for name in _EXAMPLE))
    columns = dict.fromkeys(("reason", "detail", "url", "caption"), "string")
    return {"examples of rows dropped": report.table(columns, sorted(examples))} if examples else {}


def side_by_side(pairs: Iterable[tuple[Captioned, Captioned]]) -> bytes:
    """Two pictures to a place, left and right, four pairs to a row."""
    return contact_sheet([picture for pair in pairs for picture in pair], columns=8)


def reference_copies(layout: Layout, batch: str, count: int) -> list[tuple[Captioned, Captioned]]:
    """The first `count` reference copies of a batch, each with what it copies."""
    from pipelines.dedupe.caught import caught_copies

    rejects = layout.rejects(Stage.DEDUPE, batch)
    index, deduped = layout.dataset("coco_hash_index"), layout.dataset("deduped_pairs", batch)
    return [
        (
            Captioned(copy.picture, f"copy: {copy.caption}"),
            Captioned(copy.original, f"reference, {copy.distance} of 256 bits"),
        )
        for copy in caught_copies(deduped, rejects, index, count)
    ]


def repeats(layout: Layout, batch: str, count: int) -> list[tuple[Captioned, Captioned]]:
    """The first `count` repeats of a batch, each with what is kept instead; grey if that is not."""
    from pipelines.dedupe.caught import caught_repeats
    from pipelines.dedupe.transform import searched_batches

    deduped, rejects = layout.dataset("deduped_pairs", batch), layout.rejects(Stage.DEDUPE, batch)
    earlier = [*searched_batches(ledger.require_success(deduped))]
    places = [layout.dataset("deduped_pairs", name) for name in earlier]
    shown = []
    for found in caught_repeats(deduped, rejects, places, count):
        bits, place = found.repeat.distance, found.repeat.earlier
        alike = "same file" if bits < 0 else f"{bits} of 256 bits"
        where = "" if place is None else f" {earlier[place]}"
        kept = f"kept{where}, {alike}" if found.kept else "itself dropped"
        shown.append(
            (Captioned(found.picture, f"repeat: {found.caption}"), Captioned(found.kept, kept))
        )
    return shown


def pictures(
    files: Mapping[str, str], limit_bytes: int = LIMIT_BYTES
) -> dict[str, dg.MarkdownMetadataValue]:
    """Metadata with PNG files that a program wrote; a missing one is left out."""
    found = {name: url for name, url in files.items() if storage.exists(url)}
    limit = limit_bytes // max(1, len(found))
    return {name: inline(name, storage.read_bytes(url), limit) for name, url in found.items()}


def rows(directory: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a dataset's directory, streamed in the order of its parts."""
    for url in storage.list_files(directory, ".parquet"):
        for batch in parquet.read_batches(url, columns=columns, rows=64):
            yield from pa.Table.from_batches([batch]).to_pylist()


def _thumbnail(data: bytes) -> "PILImage.Image":
    """One place of a sheet; grey if the bytes are no picture that is safe to decode."""
    from PIL import Image

    cell = Image.new("RGB", (_CELL, _CELL), (238, 238, 238))
    # A sheet must not fail a run, and decoders raise nearly anything.
    with contextlib.suppress(Exception):
        picture = _decoded(data)
        place = ((_CELL - picture.width) // 2, (_CELL - picture.height) // 2)
        cell.paste(picture, place, picture)
    return cell


def _decoded(data: bytes) -> "PILImage.Image":
    """The picture in RGBA, made to fit a place; its size is read before anything is decoded."""
    from PIL import Image, ImageOps

    opened = Image.open(io.BytesIO(data), formats=_FORMATS)
    if opened.width * opened.height > _MOST_PIXELS:
        raise ValueError(f"{opened.width} x {opened.height} pixels")
    # A JPEG is then decoded at a fraction of its size.
    opened.draft("RGB", (2 * _CELL, 2 * _CELL))
    return ImageOps.contain(opened.convert("RGBA"), (_CELL, _CELL))


def _wrapped(caption: str, width: int = 16, lines: int = 2) -> list[str]:
    return textwrap.wrap(caption, width, max_lines=lines, placeholder="..")


def _png(image: "PILImage.Image") -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
