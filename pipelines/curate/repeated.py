"""What lies under many URLs, and captions of many images: counted over one batch.

Sites answer with one picture where another is missing, and write one text below everything.
Both show only in counts, so a first pass reads the columns of the whole batch, without images.
Counts are of the batch alone: over several, what is kept would depend on their order.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import parquet
from pipelines.curate.captions import caption_texts
from pipelines.curate.columns import dropped_where
from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason

_ROWS = 16_384
# Distinct pairs are sorted out each time so many rows were added: 32 MB.
_WAITING_ROWS = 1 << 20


class Repeated(NamedTuple):
    """Keys (`image_keys`, `text_keys`) of a batch's placeholders and of its captions of many."""

    images: np.ndarray
    captions: np.ndarray


def count_repeated(urls: Iterable[str], config: CurateConfig) -> Repeated:
    """Read the fetched rows of every shard; 32 bytes of memory for each distinct pair.

    Args:
        urls: shards of `fetched_pairs`.
        config: the thresholds.
    """
    places, texts = _Pairs(), _Pairs()
    for url in urls:
        columns = ["url", "caption_raw", "outcome", "image_sha256"]
        for batch in parquet.read_batches(url, columns=columns, rows=_ROWS):
            rows = batch.filter(pc.equal(batch.column("outcome"), "ok"))
            images = image_keys(rows.column("image_sha256"))
            places.add(images, text_keys(rows.column("url")))
            captions = caption_texts(rows.column("caption_raw").to_pylist(), config)
            texts.add(text_keys(captions), images)
    return Repeated(
        places.with_more_than(config.max_image_urls),
        texts.with_more_than(config.max_caption_images),
    )


def placeholder(images: pa.Array, repeated: Repeated) -> pa.StringArray:
    """Files that the batch has under more than `max_image_urls` URLs; `images` are SHA-256."""
    mask = np.isin(image_keys(images), repeated.images)
    return dropped_where(pa.array(mask), Reason.PLACEHOLDER)


def caption_of_many(captions: pa.StringArray, repeated: Repeated) -> pa.StringArray:
    """Normalised captions that the batch has with more than `max_caption_images` images."""
    mask = np.isin(text_keys(captions), repeated.captions)
    return dropped_where(pa.array(mask), Reason.CAPTION_OF_MANY_IMAGES)


def image_keys(sha256: pa.Array) -> np.ndarray:
    """The first 8 bytes of each SHA-256: uint64 [N]."""
    return np.frombuffer(b"".join(digest[:8] for digest in sha256.to_pylist()), "<u8")


def text_keys(texts: pa.StringArray) -> np.ndarray:
    """The first 8 bytes of the BLAKE2b of each text: uint64 [N]."""
    digests = (hashlib.blake2b(t.encode(), digest_size=8).digest() for t in texts.to_pylist())
    return np.frombuffer(b"".join(digests), "<u8")


class _Pairs:
    """Distinct pairs of keys: uint64 [N, 2], first and second."""

    def __init__(self) -> None:
        self._distinct = np.empty((0, 2), np.uint64)
        self._waiting: list[np.ndarray] = []

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        self._waiting.append(np.stack([first, second], axis=1))
        if sum(map(len, self._waiting)) > _WAITING_ROWS:
            self._sort_out()

    def with_more_than(self, count: int) -> np.ndarray:
        """First keys, sorted, that have more than `count` different second ones."""
        self._sort_out()
        keys, counts = np.unique(self._distinct[:, 0], return_counts=True)
        return keys[counts > count]

    def _sort_out(self) -> None:
        self._distinct = np.unique(np.concatenate([self._distinct, *self._waiting]), axis=0)
        self._waiting = []
