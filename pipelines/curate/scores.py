"""Optional scores that models give to curated pairs: columns to filter by, never decisions.

Each score is a dataset of its own, joined by uid, so that a new model rewrites nothing. A scorer
is injected: the similarity of image and caption comes from a model that this room does not know.
"""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import Processed, ShardStage, rejected

# Decoded images that are in memory together, and in one call of the model.
_BATCH_ROWS = 32


class Scorer(Protocol):
    """A loaded model."""

    def __call__(self, images: Sequence[Image.Image], captions: Sequence[str], /) -> np.ndarray:
        """Score N pairs: float32 [N], NaN where there is no score; stored as null."""


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: of the column, and with `_scores` of the dataset.
        doc: what it says, with its range.
        load: loads the model, once per worker; must be picklable.
        model: which model exactly; stored with the column.
    """

    name: str
    doc: str
    load: Callable[[], Scorer]
    model: str

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return f"{self.name}_scores"

    def schema(self) -> pa.Schema:
        """The dataset's columns: uid and the score, the model's id in the metadata."""
        return scores_schema(self.name, self.doc, self.model)


def scores_schema(name: str, doc: str, model: str = "") -> pa.Schema:
    """Schema of `<name>_scores`."""
    uid = schemas.CURATED_PAIRS.field("uid")
    score = pa.field(name, pa.float32(), nullable=True, metadata={"doc": doc})
    metadata = {
        "dataset": f"{name}_scores",
        "row": "a curated pair",
        "contract_version": schemas.CONTRACT_VERSION,
        "model": model,
    }
    return pa.schema([uid, score], metadata=metadata)


def score_pairs(batch: str, layout: Layout, score: Score, engine: Engine) -> Finished:
    """Write one score of every row of one batch of `curated_pairs`, in their order.

    Raises:
        FileNotFoundError: if `curated_pairs` of the batch is not finished.
    """
    source = layout.dataset("curated_pairs", batch)
    curated = ledger.require_parts(source)
    stage = ShardStage(
        dataset=score.dataset,
        schema=score.schema(),
        processor=functools.partial(_ScoreRows, score),
        output=layout.dataset(score.dataset, batch),
        rejects=layout.dataset(score.dataset, batch) + "/_rejects",
        fingerprint=ledger.fingerprint(
            code_versions.SCORES, [score.name, score.model], [curated.content]
        ),
        batch_rows=_BATCH_ROWS,
        read=_read,
    )
    return stage.run(storage.list_files(source, ".parquet"), engine)


def _read(url: str, rows: int) -> Iterator[pa.RecordBatch]:
    return parquet.read_batches(url, columns=["uid", "caption", "image"], rows=rows)


class _ScoreRows:
    """Processor of curated pairs."""

    def __init__(self, score: Score):
        self._schema = score.schema()
        self._scorer = score.load()

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Keep every row."""
        images = [
            Image.open(io.BytesIO(data)).convert("RGB") for data in batch["image"].to_pylist()
        ]
        found = np.asarray(self._scorer(images, batch["caption"].to_pylist()), np.float32)
        if found.shape != (batch.num_rows,):
            raise ValueError(f"{batch.num_rows} pairs, but scores of shape {found.shape}")
        column = pa.array(found, mask=np.isnan(found))
        kept = pa.RecordBatch.from_arrays([batch["uid"], column], schema=self._schema)
        return Processed(kept, rejected(batch.slice(0, 0), schemas.Stage.CURATE, []))
