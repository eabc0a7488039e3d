"""A second opinion on reference copies: the nearest reference of every pair by an image encoder.

The paper found the pictures that its crawl shares with MS-COCO so, by a contrastive model and a
threshold chosen by hand (arXiv 2102.12092, section 3.1). Here it looks at what the hashes let
through, and only flags: nothing is dropped. The encoder is injected.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.dedupe.embedding_references import (
    BATCH_ROWS,
    Encoder,
    embed_references,
    encoded,
    load_references,
)
from pipelines.dedupe.embedding_schema import DATASET, overlap_schema
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import Processed, ShardStage, rejected

# Similarities above which pairs are counted, so that a person can choose a threshold.
_STEPS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8)


def find_overlap(
    batch: str, layout: Layout, encoder: Encoder, threshold: float, engine: Engine
) -> Finished:
    """Write the nearest reference of every row of one batch of `deduped_pairs`, in their order.

    The embeddings of the references are made once for a model and an index, and shared by all
    batches. Memory holds them and a few pictures, whatever the number of pairs.

    Args:
        batch: name of the crawl batch.
        layout: where `deduped_pairs` and `coco_hash_index` are.
        encoder: the model.
        threshold: similarity from which on a pair is flagged.
        engine: the Beam engine.

    Returns:
        The marker; its details hold `flagged` and, by similarity, how many pairs lie `above`.

    Raises:
        FileNotFoundError: if the pairs or the index are not finished.
        ValueError: if the threshold is not a cosine.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is a cosine from -1 to 1, got {threshold}")
    source = layout.dataset("deduped_pairs", batch)
    pairs = ledger.require_parts(source)
    references = embed_references(layout, encoder)
    content = ledger.require_parts(references).content
    output = layout.dataset(DATASET, batch)
    stage = ShardStage(
        dataset=DATASET,
        schema=overlap_schema(encoder.model, threshold),
        processor=functools.partial(_Nearest, references, content, encoder, threshold),
        output=output,
        rejects=join(output, "_rejects"),
        fingerprint=ledger.fingerprint(
            code_versions.EMBEDDING_OVERLAP, threshold, [pairs.content, content]
        ),
        batch_rows=BATCH_ROWS,
        read=_read,
        summarise=_summary,
    )
    shards = storage.list_files(source, ".parquet")
    return stage.run(shards, engine, model=encoder.model, threshold=threshold)


def _read(url: str, rows: int) -> Iterator[pa.RecordBatch]:
    return parquet.read_batches(url, columns=["uid", "image"], rows=rows)


class _Nearest:
    """Processor of deduped pairs."""

    def __init__(self, references: str, content: str, encoder: Encoder, threshold: float):
        self._references = load_references(references, content)
        self._encode, self._threshold = encoder.load(), threshold
        self._schema = overlap_schema(encoder.model, threshold)

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Keep every row."""
        vectors = encoded(self._encode, batch.column("image").to_pylist())
        similarity, places = self._references.index.search(vectors, 1)
        names = [self._references.names[place] for place in places[:, 0]]
        nearest = np.clip(similarity[:, 0], -1, 1)
        flagged = pa.array(nearest >= self._threshold)
        arrays = [batch.column("uid"), pa.array(names), pa.array(nearest), flagged]
        kept = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return Processed(kept, rejected(batch.slice(0, 0), schemas.Stage.DEDUPE, []))


def _summary(parts: list[str]) -> dict[str, Any]:
    flagged, above = 0, dict.fromkeys(map(str, _STEPS), 0)
    for part in parts:
        for batch in parquet.read_batches(part, columns=["similarity", "flagged"]):
            flagged += pc.sum(batch.column("flagged")).as_py() or 0
            similarity = batch.column("similarity").to_numpy()
            for step in _STEPS:
                above[str(step)] += int((similarity >= step).sum())
    return {"flagged": flagged, "above": above}
