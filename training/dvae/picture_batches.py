"""Augmented batches of pictures, decoded in threads while the last one is trained on."""

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from training.config import DVAEConfig, DVAETraining
from training.dvae.images import training_batch
from training.row_stream import Position, RowStream
from training.runtime import local_processes

_MOST_THREADS = 8


class PictureBatches:
    """An endless iterator of uint8 [rows, 3, S, S].

    Args:
        stream: rows with uid, image and epoch.
        rows: pictures a batch.
        config: the model's shape.
        training: the augmentation.

    Attributes:
        position: of the stream behind the last batch given, whatever was read ahead.
    """

    def __init__(
        self, stream: RowStream, rows: int, config: DVAEConfig, training: DVAETraining
    ) -> None:
        self._stream, self._config, self._training = stream, config, training
        self._tables = stream.batches(rows)
        self.position = dataclasses.replace(stream.position)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._decoders = ThreadPoolExecutor(max(1, min(_MOST_THREADS, cores // local_processes())))
        self._reader = ThreadPoolExecutor(1)
        self._next: Future[tuple[Tensor, Position]] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        ready = self._next or self._reader.submit(self._read)
        images, self.position = ready.result()
        self._next = self._reader.submit(self._read)
        return images

    def seek(self, position: Position) -> None:
        """Begin behind `position`; only before the first batch."""
        assert self._next is None
        self._stream.position = position
        self.position = dataclasses.replace(position)

    def _read(self) -> tuple[Tensor, Position]:
        table = next(self._tables)
        images = training_batch(table, self._config, self._training, self._decoders.map)
        return images, dataclasses.replace(self._stream.position)
