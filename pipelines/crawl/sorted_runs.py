"""Rows sorted by a hash in runs, and read back by ranges of that hash.

A run is a stretch of a Parquet file in the order of `url_hash`; the minimum and maximum that the
file keeps of each row group tell which groups a range can be in, so that reading one of many
buckets costs a few row groups of every run instead of the whole file.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage

HASH = "url_hash"
_HASHES = 2**32


def sort_by_hash(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` in the order of its column `url_hash` (uint32)."""
    return batch.take(pc.array_sort_indices(batch.column(HASH)))


def read_bucket(runs: Sequence[str], schema: pa.Schema, bucket: int, buckets: int) -> pa.Table:
    """All rows of Parquet files whose hash falls into one of `buckets` equal ranges.

    Args:
        runs: URLs of files whose rows went through `sort_by_hash`.
        schema: theirs.
        bucket: which range, from 0.
        buckets: how many ranges the hashes are cut into.
    """
    low, high = (bucket * _HASHES // buckets, (bucket + 1) * _HASHES // buckets)
    return pa.concat_tables([schema.empty_table(), *(_read_range(url, low, high) for url in runs)])


def _read_range(url: str, low: int, high: int) -> pa.Table:
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream, pq.ParquetFile(stream) as file:
        place = file.schema_arrow.get_field_index(HASH)
        spans = (
            (group, file.metadata.row_group(group).column(place).statistics)
            for group in range(file.num_row_groups)
        )
        groups = [g for g, span in spans if span.min < high and span.max >= low]
        table = file.read_row_groups(groups)
    hashes = table.column(HASH)
    return table.filter(pc.and_(pc.greater_equal(hashes, low), pc.less(hashes, high)))
