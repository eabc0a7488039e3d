"""Which pairs earlier batches of a source hold, so that a pair is a candidate once.

Beside its parts, a finished batch keeps the uids of its candidates in one small file a source
(16 bytes a pair). A later batch reads those of the batches before it one at a time, so memory
holds its own uids and those of one other batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import ledger, parquet, storage
from pipelines.layout import join
from pipelines.schemas import UID_BYTES

DIRECTORY = "_seen"
_UIDS = pa.schema([pa.field("uid", pa.binary(UID_BYTES), nullable=False)])
_ROWS = 131_072


class Known(NamedTuple):
    """File of the uids that are known, and the directories that they were looked up in."""

    url: str
    directories: tuple[str, ...]


def write_seen(directory: str, parts: Sequence[str]) -> dict[str, Any]:
    """Write the uids in `parts` to `directory`/<source>.parquet; rows by source, as figures."""
    rows: dict[str, int] = {}
    for source, uids in sorted(_uids_by_source(parts).items()):
        own = pa.table([uids], schema=_UIDS).sort_by("uid")
        parquet.write(_file(directory, source), own.to_batches(), _UIDS)
        rows[source] = len(uids)
    return {"rows_by_source": rows}


def write_known(url: str, runs: Sequence[str], earlier: Sequence[str]) -> Known:
    """Write which uids of `runs` a finished directory of `earlier` holds for the same source.

    A file that is there already stays: a resumed run must come to the same end.

    Args:
        url: where to write.
        runs: Parquet files with the columns uid and source.
        earlier: directories of candidates; unfinished ones are left out.
    """
    directories = tuple(d for d in earlier if ledger.read_success(d) is not None)
    marker = f"{url}.json"
    if storage.exists(marker):
        return Known(url, tuple(storage.read_json(marker)))
    found: list[pa.Array] = []
    if directories:
        for source, uids in _uids_by_source(runs).items():
            for directory in directories:
                file = _file(join(directory, DIRECTORY), source)
                found += _common(uids, file) if storage.exists(file) else []
    batches = [pa.RecordBatch.from_arrays([uids], schema=_UIDS) for uids in found]
    parquet.write(url, batches, _UIDS)
    storage.write_json(marker, list(directories))
    return Known(url, directories)


def read_known(url: str) -> set[bytes]:
    """The uids that `write_known` wrote; at most those of one batch."""
    batches = parquet.read_batches(url, rows=_ROWS)
    return {uid for batch in batches for uid in batch.column("uid").to_pylist()}


def _uids_by_source(files: Sequence[str]) -> dict[str, pa.Array]:
    chunks: dict[str, list[pa.Array]] = {}
    for file in files:
        for batch in parquet.read_batches(file, columns=["uid", "source"], rows=_ROWS):
            for source in batch.column("source").unique().to_pylist():
                own = batch.filter(pc.equal(batch.column("source"), source))
                chunks.setdefault(source, []).append(own.column("uid"))
    return {source: pa.concat_arrays(arrays) for source, arrays in chunks.items()}


def _common(uids: pa.Array, file: str) -> list[pa.Array]:
    others = pa.concat_arrays([b.column("uid") for b in parquet.read_batches(file, rows=_ROWS)])
    return [uids.filter(pc.is_in(uids, value_set=others))]


def _file(directory: str, source: str) -> str:
    return join(directory, f"{source}.parquet")
