"""The signatures of a batch's kept pairs, as later batches read them.

Each later batch asks every earlier one, so what is read of a batch counts: first the keys, a tenth
of the signatures, then the few row groups of those pairs whose keys may match.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import parquet, storage
from pipelines.dedupe.hashes import unpacked
from pipelines.dedupe.signatures import SCHEMA, Signatures, signatures_of
from pipelines.layout import join

_KEYS_FILE = "keys.parquet"
_KEPT_FILE = "kept.parquet"
# Between two batches of 100,000 files one agrees by chance once in 28,000 times, and costs a read.
_FILE_BYTES = 6
# Few, so that a pair that may match costs 80 kB.
_GROUP_ROWS = 512
_READ_ROWS = 16_384

_KEYS = pa.schema(
    [
        pa.field("file", pa.binary(_FILE_BYTES), nullable=False),
        pa.field("phash64", pa.binary(8), nullable=False),
        pa.field("contrast", pa.uint8(), nullable=False),
    ]
)


class Keys(NamedTuple):
    """What tells which pairs may be the same as others, of N pairs.

    Attributes:
        file: start of the SHA-256 of the original bytes, int64 [N].
        phash64: uint8 [N, 8].
        contrast: rounded up, at most 255: uint8 [N].
    """

    file: np.ndarray
    phash64: np.ndarray
    contrast: np.ndarray


def file_keys(sha256: np.ndarray) -> np.ndarray:
    """Starts of SHA-256 digests: uint8 [N, 6 or more] to int64 [N]."""
    wide = np.zeros((len(sha256), 8), np.uint8)
    wide[:, :_FILE_BYTES] = sha256[:, :_FILE_BYTES]
    return wide.view("<i8")[:, 0]


def write_kept(directory: str, signatures: pa.Table) -> None:
    """Write signatures in the schema `signatures.SCHEMA`, the keys last."""
    rows = signatures.sort_by("uid")
    kept = signatures_of(rows)
    starts = np.ascontiguousarray(kept.sha256[:, :_FILE_BYTES])
    columns = [
        pa.array([start.tobytes() for start in starts], pa.binary(_FILE_BYTES)),
        rows.column("phash64").combine_chunks(),
        pa.array(np.ceil(kept.contrast).clip(0, 255).astype(np.uint8)),
    ]
    url = join(directory, _KEPT_FILE)
    parquet.write(url, rows.to_batches(), SCHEMA, row_group_rows=_GROUP_ROWS)
    keys = pa.Table.from_arrays(columns, schema=_KEYS)
    parquet.write(join(directory, _KEYS_FILE), keys.to_batches(), _KEYS, row_group_rows=1 << 16)


def read_kept(directory: str, wanted: Callable[[Keys], np.ndarray]) -> Iterator[Signatures]:
    """Signatures of the pairs whose keys are wanted, some at a time.

    Args:
        directory: where `write_kept` wrote.
        wanted: gives the places of keys that may match, int64 and sorted.

    Raises:
        FileNotFoundError: if there are none, with what to do.
    """
    url = join(directory, _KEYS_FILE)
    if not storage.exists(url):
        raise FileNotFoundError(
            f"{url} is missing, by which later batches know what this one kept; dedupe this "
            "earlier batch again first"
        )
    found, place = [np.empty(0, np.int64)], 0
    for rows in parquet.read_batches(url, rows=_READ_ROWS):
        found.append(place + wanted(_keys(rows)))
        place += rows.num_rows
    places = np.concatenate(found)
    if len(places):
        yield from _read_rows(join(directory, _KEPT_FILE), places)


def _keys(rows: pa.RecordBatch) -> Keys:
    starts, phash64 = unpacked(rows.column("file")), unpacked(rows.column("phash64"))
    return Keys(file_keys(starts), phash64, rows.column("contrast").to_numpy())


def _read_rows(url: str, places: np.ndarray) -> Iterator[Signatures]:
    """Rows of a file by their places, reading only the row groups that hold them."""
    fs, path = storage.filesystem(url)
    # Reading ahead would fetch the groups between, too.
    with (
        fs.open(path, "rb", cache_type="none") as stream,
        pq.ParquetFile(stream, pre_buffer=True) as file,
    ):
        first = 0
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            own = places[np.searchsorted(places, first) : np.searchsorted(places, last)] - first
            if len(own):
                yield signatures_of(file.read_row_group(group).take(pa.array(own)))
            first = last
