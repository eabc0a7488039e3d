"""An external shuffle: any number of rows in the order of a hash, in bounded memory.

Rows are appended to buckets by the leading part of their hash, then each bucket is sorted on
its own. Buckets split the hash range evenly, so the order does not depend on their number.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

KEY = "shuffle_key"
BATCH = "crawl_batch"
REPEATED = "repeated_uid"

_KEY_BYTES = 8


class Shuffle:
    """Rows with the columns uid, crop_id and crawl_batch, put in the order of a hash.

    Args:
        directory: local, empty; the rows lie there meanwhile (about their size in Arrow).
        rows: how many rows are about to come.
        bucket_rows: rows to sort in memory at once, on average.
        seed: of the hash.
    """

    def __init__(self, directory: str, rows: int, bucket_rows: int, seed: int):
        self._directory = directory
        self._buckets = max(1, -(-rows // bucket_rows))
        self._seed = seed.to_bytes(_KEY_BYTES, "little")
        os.makedirs(directory)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows to their buckets."""
        keys = self._keys(batch)
        # Python integers: the product does not fit 64 bits.
        buckets = np.array([key * self._buckets >> 64 for key in keys.tolist()], np.int64)
        order = np.argsort(buckets, kind="stable")
        keyed = batch.append_column(KEY, pa.array(keys)).take(pa.array(order))
        found, starts = np.unique(buckets[order], return_index=True)
        ends = [*starts[1:], len(order)]
        for bucket, start, end in zip(found, starts, ends, strict=True):
            # Open, append, close: thousands of buckets must not need as many open files.
            path = self._path(int(bucket))
            new = not os.path.exists(path)
            with open(path, "ab") as stream:
                if new:
                    stream.write(keyed.schema.serialize())
                stream.write(keyed.slice(start, end - start).serialize())

    def sort(self) -> Iterator[pa.Table]:
        """Sort every bucket; yields the rows found again, which are no longer in `rows`.

        A row is found again if an earlier one, by name of its crawl batch, has its uid and
        crop_id.
        """
        for bucket in range(self._buckets):
            path = self._path(bucket)
            if not os.path.exists(path):
                continue
            table = _read(path).read_all()
            keys = [(KEY, "ascending"), ("uid", "ascending"), ("crop_id", "ascending")]
            table = table.sort_by([*keys, (BATCH, "ascending")]).combine_chunks()
            repeated = _equals_row_before(table)
            kept = table.filter(pa.array(~repeated)).drop_columns([KEY])
            with pa.ipc.new_stream(f"{path}.sorted", kept.schema) as writer:
                writer.write_table(kept)
            os.unlink(path)
            yield table.filter(pa.array(repeated)).drop_columns([KEY])

    def rows(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, after `sort`; may be read more than once."""
        for bucket in range(self._buckets):
            path = f"{self._path(bucket)}.sorted"
            if os.path.exists(path):
                yield from _read(path)

    def _path(self, bucket: int) -> str:
        return f"{self._directory}/{bucket:06d}"

    def _keys(self, batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
        uids = batch.column("uid").to_pylist()
        crops = batch.column("crop_id").to_pylist()
        digests = (
            hashlib.blake2b(uid + bytes([crop]), digest_size=_KEY_BYTES, key=self._seed).digest()
            for uid, crop in zip(uids, crops, strict=True)
        )
        return np.frombuffer(b"".join(digests), dtype="<u8")


def _read(path: str) -> pa.RecordBatchReader:
    return pa.ipc.open_stream(pa.memory_map(path))


def _equals_row_before(table: pa.Table) -> npt.NDArray[np.bool_]:
    rows = list(
        zip(table.column("uid").to_pylist(), table.column("crop_id").to_pylist(), strict=True)
    )
    return np.array([i > 0 and rows[i] == rows[i - 1] for i in range(len(rows))], dtype=bool)


def split(batches: Iterable[pa.RecordBatch], limit: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Cut a stream into streams of `limit` rows; read each one before the next."""
    stream = (batch for batch in batches if batch.num_rows)
    waiting: list[pa.RecordBatch] = []

    def part() -> Iterator[pa.RecordBatch]:
        left = limit
        while left:
            batch = waiting.pop() if waiting else next(stream, None)
            if batch is None:
                return
            if batch.num_rows > left:
                waiting.append(batch.slice(left))
                batch = batch.slice(0, left)
            left -= batch.num_rows
            yield batch

    while True:
        if not waiting:
            waiting.extend(itertools.islice(stream, 1))
        if not waiting:
            return
        yield part()
