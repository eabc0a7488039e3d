"""Pairs to token rows: what a worker of the encode stage does.

Three steps run at the same time, so that the image tokenizer never waits where the machine has
cores for the others: threads decode pictures, cut crops and make BPE ids; one thread hands full
batches of crops, over the borders of row groups and shards, to the image tokenizer; the caller
writes.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from tokenizers import Tokenizer

from pipelines import schemas
from pipelines.encode.bpe import load_tokenizer
from pipelines.encode.image_tokens import ImageTokenizer, crop, decode
from pipelines.encode.overlap import ahead, full
from pipelines.ledger import Funnel
from pipelines.shards import Processed, ShardRows, rejected

UNDECODABLE = "undecodable_image"
_FORWARDS_BEGUN = 2


@dataclass(frozen=True)
class TextFacts:
    """The tokenizer of the captions: `tokenizer.json`, its hash and size, and the ids kept."""

    url: str
    sha256: str
    vocabulary: int
    max_length: int


@dataclass(frozen=True)
class ImageFacts:
    """What the image tokenizer must be, known without loading it (see `ImageTokenizer`)."""

    sha256: str
    image_size: int
    grid: int
    vocabulary: int
    precision: str


@dataclass(frozen=True)
class _Prepared:
    """A batch of rows, and what threads made of it: crops uint8 [n * crops, S, S, 3], BPE ids."""

    shard: int
    rows_in: int
    kept: pa.RecordBatch
    rejects: pa.RecordBatch
    images: npt.NDArray[np.uint8]
    ids: list[list[int]]


class PairEncoder:
    """Encodes pairs (columns uid, caption, image, and for rejects url and caption_raw).

    Args:
        text: tokenizer of the captions; None where there are none.
        image: what the image tokenizer must be.
        image_tokenizer: gives the image tokenizer.
        crops: rows for each pair.
        batch: images handed to the image tokenizer at once.
        threads: that decode.
        opened: makes RGB of an image's bytes, or raises ValueError with the reason.

    Raises:
        ValueError: if a tokenizer is not the one that the facts describe.
    """

    def __init__(
        self,
        text: TextFacts | None,
        image: ImageFacts,
        image_tokenizer: Callable[[], ImageTokenizer],
        crops: int,
        batch: int,
        threads: int,
        opened: Callable[[bytes], Image.Image] = decode,
    ):
        self._facts, self._crops, self._batch, self._threads = image, crops, batch, threads
        self._opened = opened
        self._max_length = text.max_length if text else 0
        self._text: Tokenizer | None = load_tokenizer(text.url, text.sha256) if text else None
        self._image = image_tokenizer()
        for name in ("sha256", "grid", "image_size", "vocabulary", "precision"):
            found, wanted = getattr(self._image, name), getattr(image, name)
            if found != wanted:
                raise ValueError(
                    f"the image tokenizer's {name} is {found}, the stage was started for {wanted}; "
                    "start it again with the current model"
                )

    def stream(self, batches: Iterator[tuple[int, pa.RecordBatch]]) -> Iterator[ShardRows]:
        """What became of each batch of (shard, rows), in order."""
        decoders = ThreadPoolExecutor(self._threads, "decode")
        model = ThreadPoolExecutor(1, "forward")
        waiting: deque[_Prepared] = deque()

        def images() -> Iterator[npt.NDArray[np.uint8]]:
            for prepared in ahead(self._prepare, batches, decoders, self._threads + 1):
                waiting.append(prepared)
                yield prepared.images

        try:
            codes = np.empty((0, self._facts.grid**2), np.uint16)
            for found in ahead(self._forward, full(images(), self._batch), model, _FORWARDS_BEGUN):
                codes = np.concatenate([codes, found])
                while waiting and len(waiting[0].images) <= len(codes):
                    done = waiting.popleft()
                    yield self._result(done, codes[: len(done.images)])
                    codes = codes[len(done.images) :]
            yield from (self._result(done, codes) for done in waiting)
        finally:
            for executor in (decoders, model):
                executor.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, item: tuple[int, pa.RecordBatch]) -> _Prepared:
        shard, batch = item
        side = self._facts.image_size
        uids = batch.column("uid").to_pylist()
        crops: list[npt.NDArray[np.uint8]] = []
        good, bad, errors = [], [], []
        for row, image in enumerate(batch.column("image")):
            try:
                picture = self._opened(image.as_py())
            except ValueError as error:
                bad.append(row)
                errors.append(str(error))
                continue
            good.append(row)
            crops += [crop(picture, uids[row], k, side) for k in range(self._crops)]
        named = batch.select([n for n in batch.schema.names if n != "image"])
        kept = named.take(pa.array(good, pa.int64()))
        dropped = named.take(pa.array(bad, pa.int64()))
        reasons = [UNDECODABLE] * len(bad)
        return _Prepared(
            shard=shard,
            rows_in=batch.num_rows,
            kept=kept,
            rejects=rejected(dropped, schemas.Stage.ENCODE, reasons, errors),
            images=np.stack(crops) if crops else np.empty((0, side, side, 3), np.uint8),
            ids=self._ids(kept.column("caption").to_pylist()),
        )

    def _ids(self, captions: list[str]) -> list[list[int]]:
        if self._text is None:
            return [[] for _ in captions]
        return [encoding.ids for encoding in self._text.encode_batch_fast(captions)]

    def _forward(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Codes of crops, uint16 [n, grid * grid]."""
        facts = self._facts
        found = self._image(images)
        expected = (len(images), facts.grid, facts.grid)
        if found.shape != expected or found.dtype != np.uint16:
            raise ValueError(
                f"the image tokenizer gave {found.dtype} {found.shape}, expected uint16 {expected}"
            )
        if int(found.max()) >= facts.vocabulary:
            raise ValueError(
                f"the image tokenizer gave code {found.max()}, beyond its vocabulary of "
                f"{facts.vocabulary}"
            )
        return found.reshape(len(images), -1)

    def _result(self, done: _Prepared, codes: npt.NDArray[np.uint16]) -> ShardRows:
        reasons = {UNDECODABLE: done.rejects.num_rows} if done.rejects.num_rows else {}
        funnel = Funnel(done.rows_in, done.kept.num_rows, reasons)
        processed = Processed(self._rows(done, codes), done.rejects, funnel)
        return ShardRows(done.shard, done.rows_in, processed)

    def _rows(self, done: _Prepared, codes: npt.NDArray[np.uint16]) -> pa.RecordBatch:
        cut = [found[: self._max_length] for found in done.ids]
        pairs = pa.array(np.repeat(np.arange(len(cut)), self._crops))
        schema = schemas.token_grids(self._facts.grid)
        columns = {
            "uid": done.kept.column("uid").take(pairs),
            "crop_id": pa.array(np.tile(np.arange(self._crops, dtype=np.uint8), len(cut))),
            "caption": done.kept.column("caption").take(pairs),
            "text_tokens": pa.array(cut, schema.field("text_tokens").type).take(pairs),
            "text_length": pa.array([len(found) for found in cut], pa.int16()).take(pairs),
            "text_truncated": pa.array(
                [len(found) > self._max_length for found in done.ids], pa.bool_()
            ).take(pairs),
            "image_tokens": pa.FixedSizeListArray.from_arrays(
                pa.array(codes.reshape(-1)), type=schema.field("image_tokens").type
            ),
        }
        return pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema)
