"""A small corpus of `deduped_pairs`, and an image tokenizer that needs no training."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import identity, ledger, parquet, schemas
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.publish.funnel import FLOW

_NOUNS = ("cat", "dog", "house", "fire engine", "firefighter", "red heart", "clock", "flag of Fiji")
_OTHERS = (
    "Das rote Herz, gemalt",
    "猫の絵文字",
    "un cœur rouge : dessiné",
    "it's 10:30 ⏰ O'Clock!",
)


def caption(index: int) -> str:
    if index % 7 == 6:
        return f"{_OTHERS[index % len(_OTHERS)]} {index}"
    return f"{_NOUNS[index % len(_NOUNS)]} number {index} as an emoji"


def picture(index: int, size: tuple[int, int] = (40, 32)) -> bytes:
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * (index + 3) + y * c * 5 + 31 * index) % 256 for c in (1, 2, 3)]
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _default(field: pa.Field) -> object:
    if field.nullable:
        return None
    if pa.types.is_fixed_size_binary(field.type):
        return bytes(field.type.byte_width)
    return "" if pa.types.is_string(field.type) else 1


def pair(index: int, image: bytes | None = None) -> dict[str, object]:
    url, text = f"http://example.org/{index}.png", caption(index)
    image = picture(index) if image is None else image
    known = {
        "uid": identity.uid(url, text),
        "url": url,
        "caption": text,
        "caption_raw": text,
        "image": image,
        "image_sha256": hashlib.sha256(image).digest(),
        "lang": "en",
    }
    return {f.name: known.get(f.name, _default(f)) for f in schemas.DEDUPED_PAIRS}


def write_batch(
    layout: Layout, name: str, indices: range, shards: int = 2, broken: tuple[int, ...] = ()
) -> Finished:
    """Write a finished batch of `deduped_pairs`, and the markers of the stages before it."""
    directory = layout.dataset("deduped_pairs", name)
    rows = [pair(i, b"not a picture" if i in broken else None) for i in indices]
    files = {}
    for shard in range(shards):
        table = pa.Table.from_pylist(rows[shard::shards], schema=schemas.DEDUPED_PAIRS)
        part = f"part-{shard:05d}.parquet"
        files[part] = parquet.write(
            join(directory, part), table.to_batches(), schemas.DEDUPED_PAIRS
        )
    counts = [len(rows) + 9, len(rows) + 6, len(rows) + 3, len(rows)]
    rows_in = [counts[0] + 1, *counts]
    reasons = ("not_an_image", "not_found", "too_short", "near_duplicate")
    for (_, dataset), before, kept, reason in zip(FLOW, rows_in, counts, reasons, strict=False):
        content = ledger.content_hash({p: f.sha256 for p, f in files.items()})
        done = Finished(
            dataset=dataset,
            fingerprint=f"{dataset}-{name}",
            content=content,
            rows=kept,
            bytes=sum(f.bytes for f in files.values()),
            funnel=Funnel(before, kept, {reason: before - kept}),
        )
        ledger.write_success(layout.dataset(dataset, name), done)
    return done


@dataclass
class MeanColour:
    """Codes are the mean colour of each cell, quantised to 2 bits a channel."""

    image_size: int = 32
    grid: int = 4
    vocabulary: int = 64
    precision: str = "fp32"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"mean colour {self.image_size} {self.grid}".encode()).hexdigest()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (self.image_size, self.image_size, 3)
        cell = self.image_size // self.grid
        cells = images.reshape(len(images), self.grid, cell, self.grid, cell, 3).mean((2, 4))
        two_bits = (cells // 64).astype(np.uint16)
        return two_bits @ np.array([16, 4, 1], np.uint16)
