"""Columns of `embedding_overlap`; light, for the definition of the asset reads it."""

import pyarrow as pa

from pipelines import schemas

DATASET = "embedding_overlap"


def overlap_schema(model: str = "", threshold: float | None = None) -> pa.Schema:
    """Schema of `embedding_overlap`."""
    fields = [
        schemas.DEDUPED_PAIRS.field("uid"),
        pa.field("reference", pa.string(), False, {"doc": "the nearest reference image"}),
        pa.field("similarity", pa.float32(), False, {"doc": "cosine of the two embeddings"}),
        pa.field("flagged", pa.bool_(), False, {"doc": "whether it reaches the threshold"}),
    ]
    metadata = {
        "dataset": DATASET,
        "row": "a deduped pair",
        "contract_version": schemas.CONTRACT_VERSION,
        "model": model,
        "threshold": "" if threshold is None else str(threshold),
    }
    return pa.schema(fields, metadata=metadata)
