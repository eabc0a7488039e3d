"""What tells whether two kept pictures are the same: a few hundred bytes a pair."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import parquet
from pipelines.dedupe.hashes import unpacked
from pipelines.schemas import UID_BYTES

_FIELDS = 4  # mean colours are taken of so many fields along each side
_COLOUR_BYTES = 3 * _FIELDS * _FIELDS
# Words beyond this make a caption longer, not better.
_MOST_WORDS = 40
_COLUMNS = [
    "uid",
    "image_sha256",
    "phash64",
    "phash256",
    "contrast",
    "caption",
    "lang_score",
    "image",
]
_BATCH_ROWS = 256

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("image_sha256", pa.binary(32), nullable=False),
        pa.field("phash64", pa.binary(8), nullable=False),
        pa.field("phash256", pa.binary(32), nullable=False),
        pa.field("colour", pa.binary(_COLOUR_BYTES), nullable=False),
        pa.field("contrast", pa.float32(), nullable=False),
        pa.field("words", pa.int16(), nullable=False),
        pa.field("lang_score", pa.float32(), nullable=False),
    ]
)


class Signatures(NamedTuple):
    """Signatures of N pairs.

    Attributes:
        uid: bytes, S16 would lose zeros: uint8 [N, 16].
        sha256: of the original bytes, uint8 [N, 32].
        phash64: uint8 [N, 8].
        phash256: uint8 [N, 32].
        colour: mean colours of 4x4 fields, uint8 [N, 48].
        contrast: float32 [N].
        words: distinct words of the caption, at most 40, int16 [N].
        lang_score: the language detector's probability, float32 [N].
    """

    uid: np.ndarray
    sha256: np.ndarray
    phash64: np.ndarray
    phash256: np.ndarray
    colour: np.ndarray
    contrast: np.ndarray
    words: np.ndarray
    lang_score: np.ndarray

    def take(self, rows: np.ndarray) -> "Signatures":
        """Some of them, by place or by mask."""
        return Signatures(*(column[rows] for column in self))

    def best_first(self) -> np.ndarray:
        """Their places by the rule of which pair of a picture is kept, int64 [N].

        Most distinct words (counted to 40), then the surest language, then the smallest uid.
        """
        high, low = np.ascontiguousarray(self.uid).view(">u8").T
        return np.lexsort((low, high, -self.lang_score, -self.words.astype(np.int64)))


def write_signatures(shard: str, url: str, *, coloured: bool) -> None:
    """Write the signatures of one shard of curated pairs, in its order.

    Args:
        shard: Parquet file.
        url: where to.
        coloured: whether to take the mean colours, which decodes the stored pictures.
    """
    parquet.write(url, _signatures(shard, coloured), SCHEMA)


def read_signatures(urls: Sequence[str]) -> Signatures:
    """All signatures of some files."""
    batches = [batch for url in urls for batch in parquet.read_batches(url, rows=65536)]
    return signatures_of(pa.Table.from_batches(batches, SCHEMA if not batches else None))


def signatures_of(rows: pa.Table | pa.RecordBatch) -> Signatures:
    """Rows in `SCHEMA` as arrays."""
    binary = [unpacked(rows.column(name)) for name in SCHEMA.names[:5]]
    plain = [rows.column(name).to_numpy() for name in SCHEMA.names[5:]]
    return Signatures(*binary, *plain)


def _signatures(shard: str, coloured: bool) -> Iterator[pa.RecordBatch]:
    columns = [name for name in _COLUMNS if coloured or name != "image"]
    for batch in parquet.read_batches(shard, columns=columns, rows=_BATCH_ROWS):
        captions = batch.column("caption").to_pylist()
        words = [min(len(set(caption.lower().split())), _MOST_WORDS) for caption in captions]
        pictures = batch.column("image").to_pylist() if coloured else [None] * batch.num_rows
        made = {
            "words": pa.array(words, pa.int16()),
            "colour": pa.array([_colours(p) for p in pictures], pa.binary(_COLOUR_BYTES)),
        }
        arrays = [made[n] if n in made else batch.column(n) for n in SCHEMA.names]
        yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _colours(data: bytes | None) -> bytes:
    """Mean colours of 4x4 fields of a stored picture, row-major RGB."""
    if data is None:
        return bytes(_COLOUR_BYTES)
    image = Image.open(io.BytesIO(data))
    # A JPEG then decodes at an eighth of its size, which are the means of its blocks.
    image.draft("RGB", (8 * _FIELDS, 8 * _FIELDS))
    small = image.convert("RGB").resize((_FIELDS, _FIELDS), Image.Resampling.BOX)
    return small.tobytes()
