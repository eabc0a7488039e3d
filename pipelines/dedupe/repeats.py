"""Repeats inside a batch: pairs whose original image bytes are identical.

Near-identical pictures stay: variants of one drawing (skin tones, say) have equal perceptual
hashes and are not copies of each other.

Of each group the pair with the longest caption is kept, and among those the one with the
smallest uid.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import parquet, storage
from pipelines.runners import Engine
from pipelines.schemas import UID_BYTES

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("kept_uid", pa.binary(UID_BYTES), nullable=False),
    ]
)
# Groups travel as record batches, one per bucket of hashes: single rows cost too much in Beam.
_BUCKETS = 16


def find_repeats(shards: Sequence[str], output: str, engine: Engine) -> None:
    """Write which pairs repeat another one, as a Parquet file of (uid, kept_uid) by uid.

    Args:
        shards: Parquet files with the columns uid, image_sha256 and caption.
        output: the file.
        engine: the Beam engine.
    """
    import apache_beam as beam

    storage.remove(output)
    with engine.pipeline() as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(list(shards))
            | "spread" >> beam.Reshuffle()
            | "buckets" >> beam.FlatMap(_buckets)
            | "same bucket" >> beam.GroupByKey()
            | "losers" >> beam.Map(_losers)
            | "all" >> beam.GroupByKey()
            | "write" >> beam.Map(_write, output)
        )
    if not storage.exists(output):
        parquet.write(output, [], SCHEMA)


def read_repeats(url: str) -> dict[bytes, bytes]:
    """uid of each repeat to the uid of the pair that is kept."""
    found: dict[bytes, bytes] = {}
    for batch in parquet.read_batches(url):
        columns = (batch.column(name).to_pylist() for name in SCHEMA.names)
        found.update(zip(*columns, strict=True))
    return found


def _buckets(shard: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    for batch in parquet.read_batches(shard, columns=["uid", "image_sha256", "caption"]):
        rows = pa.RecordBatch.from_arrays(
            [
                batch.column("image_sha256"),
                pc.utf8_length(batch.column("caption")),
                batch.column("uid"),
            ],
            names=["image_sha256", "length", "uid"],
        )
        buckets = np.array([sha[0] % _BUCKETS for sha in rows.column(0).to_pylist()], np.int64)
        for bucket in np.unique(buckets):
            yield int(bucket), rows.filter(pa.array(buckets == bucket))


def _losers(group: tuple[int, Iterable[pa.RecordBatch]]) -> tuple[int, pa.RecordBatch]:
    columns = [column.to_pylist() for column in pa.Table.from_batches(list(group[1])).columns]
    rows = sorted(zip(*columns, strict=True), key=lambda row: (row[0], -row[1], row[2]))
    pairs = []
    for _, same in itertools.groupby(rows, key=lambda row: row[0]):
        kept, *others = (uid for _, _, uid in same)
        pairs += [(uid, kept) for uid in others if uid != kept]
    return 0, _as_batch(pairs)


def _write(group: tuple[int, Iterable[pa.RecordBatch]], output: str) -> None:
    losers = pa.Table.from_batches(list(group[1]), SCHEMA)
    pairs = zip(*(losers.column(name).to_pylist() for name in SCHEMA.names), strict=True)
    parquet.write(output, [_as_batch(sorted(pairs))], SCHEMA)


def _as_batch(pairs: Sequence[tuple[bytes, bytes]]) -> pa.RecordBatch:
    columns = list(zip(*pairs, strict=True)) or [(), ()]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
