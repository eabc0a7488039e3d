"""Which reference images the crawl overlaps with, so that an evaluation can leave them out.

The paper kept overlapping pictures in its training data and reported its evaluation with and
without the validation images that they copy (arXiv 2102.12092, section 3.1).
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from pipelines import parquet
from pipelines.layout import join
from pipelines.schemas import OVERLAP_FILE, UID_BYTES

FILE = OVERLAP_FILE
OVERLAP = pa.schema(
    [
        pa.field("reference", pa.string(), nullable=False),
        pa.field("pairs", pa.int64(), nullable=False),
        pa.field("nearest_uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("distance", pa.int16(), nullable=False),
    ],
    metadata={"row": "a reference image, and how many pairs of the batch copy it"},
)


def write_overlap(output: str, kept: Sequence[str], rejects: Sequence[str], reason: str) -> int:
    """Write the references that pairs of a batch copy, kept or dropped; returns how many.

    Args:
        output: directory of the batch.
        kept: its parts.
        rejects: parts of what was dropped.
        reason: the reason of dropped copies.
    """
    found: dict[str, tuple[int, bytes]] = {}
    pairs: dict[str, int] = {}
    for reference, distance, uid in (*_flagged(kept), *_dropped(rejects, reason)):
        nearest = found.get(reference, (distance, uid))
        found[reference] = min(nearest, (distance, uid))
        pairs[reference] = pairs.get(reference, 0) + 1
    rows = [
        {"reference": name, "pairs": pairs[name], "nearest_uid": uid, "distance": distance}
        for name, (distance, uid) in sorted(found.items())
    ]
    table = pa.Table.from_pylist(rows, OVERLAP)
    parquet.write(join(output, FILE), table.to_batches(), OVERLAP)
    return len(rows)


def _flagged(parts: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
    columns = ["dup_of", "dup_distance", "uid"]
    for row in _rows(parts, columns):
        if row[0] is not None:
            yield row


def _dropped(parts: Iterable[str], reason: str) -> Iterator[tuple[str, int, bytes]]:
    for found, detail, uid in _rows(parts, ["reason", "detail", "uid"]):
        if found == reason:
            match = json.loads(detail)
            yield match["reference"], match["distance"], uid


def _rows(parts: Iterable[str], columns: list[str]) -> Iterator[tuple]:
    for part in parts:
        for batch in parquet.read_batches(part, columns=columns):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
