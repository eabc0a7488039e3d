"""The dataset's own validation and held-out rows as a reference set."""

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import torch
from torch import Tensor

from training.config import Recipe
from training.contrastive.report import distinct
from training.drawing.sampling import pictures_of
from training.dvae.images import plain_batch
from training.metrics.reference_set import ReferenceSet
from training.models.dvae import DVAE
from training.row_stream import RowStream
from training.splits import Split
from training.token_data import TokenData

_TITLE = "Unseen captions of the corpus"
_SPLITS = (Split.VALIDATION, Split.HELD_OUT)
_TOGETHER = 64


def unseen_pictures(files: Sequence[str], recipe: Recipe, count: int) -> ReferenceSet:
    """At most `count` captions with the pictures of `deduped_pairs`.

    Args:
        files: parts of the batches.
        recipe: whose splits and picture size count.
        count: captions.
    """

    def rows(split: Split) -> pa.Table:
        return RowStream(files, ["image"], split, recipe.split).all_rows(count)

    table = _distinct(rows, count)

    def read() -> Iterator[Tensor]:
        for start in range(0, len(table), _TOGETHER):
            yield plain_batch(table.slice(start, _TOGETHER), recipe.dvae.image_size)

    return _set(table, read, real=True)


def unseen_codes(data: TokenData, dvae: DVAE, count: int) -> ReferenceSet:
    """At most `count` captions with what the dVAE makes of their own codes."""
    table = _distinct(lambda split: data.stream(split).all_rows(count), count)
    codes = data.plain_batch(table).codes if len(table) else torch.empty(0, 1)
    device = dvae.encoder.input.weight.device

    def read() -> Iterator[Tensor]:
        for some in codes.split(_TOGETHER):
            yield pictures_of(dvae, some.to(device))

    return _set(table, read, real=False)


def _distinct(rows: Callable[[Split], pa.Table], count: int) -> pa.Table:
    return distinct(pa.concat_tables([rows(split) for split in _SPLITS])).slice(0, count)


def _set(table: pa.Table, read: Callable[[], Iterator[Tensor]], *, real: bool) -> ReferenceSet:
    names = [uid.hex() for uid in table["uid"].to_pylist()]
    return ReferenceSet("", _TITLE, table["caption"].to_pylist(), names, read, real)
