"""Drawings of coloured shapes as finished `deduped_pairs`: what a tiny model learns in seconds."""

import io
import itertools

import pyarrow as pa
from PIL import Image, ImageDraw
from token_corpus import pair

from pipelines import identity, ledger, parquet, schemas
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
SHAPES = ("square", "disc", "bar", "heart")
GROUNDS = ("grey", "orange", "purple")


def captions() -> list[str]:
    """One for each drawing; `drawing` draws it."""
    every = itertools.product(COLOURS, SHAPES, GROUNDS)
    return [f"a {colour} {shape} on {ground}" for colour, shape, ground in every]


def drawing(caption: str) -> Image.Image:
    _, colour, shape, _, ground = caption.split()
    image = Image.new("RGB", (40, 32), ground)
    draw = ImageDraw.Draw(image)
    if shape == "square":
        draw.rectangle((12, 8, 28, 24), fill=colour)
    elif shape == "disc":
        draw.ellipse((10, 6, 30, 26), fill=colour)
    elif shape == "bar":
        draw.rectangle((6, 14, 34, 18), fill=colour)
    else:
        draw.polygon([(10, 8), (30, 8), (20, 28)], fill=colour)
    return image


def write_pairs(layout: Layout, batch: str = "a") -> str:
    """Write a batch of every drawing; its directory."""
    rows = []
    for i, caption in enumerate(captions()):
        stream = io.BytesIO()
        drawing(caption).save(stream, "PNG")
        uid = identity.uid(f"http://example.org/{i}", caption)
        rows.append(pair(i, stream.getvalue()) | {"uid": uid, "caption": caption})
    directory = layout.dataset("deduped_pairs", batch)
    table = pa.Table.from_pylist(rows, schemas.DEDUPED_PAIRS)
    url = join(directory, "part-00000.parquet")
    written = parquet.write(url, table.to_batches(), schemas.DEDUPED_PAIRS, row_group_rows=16)
    funnel = Funnel(len(rows), len(rows))
    finished = Finished(
        "deduped_pairs", "test", written.sha256[:32], len(rows), written.bytes, funnel
    )
    ledger.write_success(directory, finished)
    return directory
