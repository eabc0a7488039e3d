"""Some pictures of a dataset, by uid."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.schemas import UID_BYTES


def stored_pictures(directory: str, uids: Sequence[bytes]) -> dict[bytes, bytes]:
    """Column `image` by uid, of those that are there.

    Reads the uid column, and the row groups that have one of them.
    """
    wanted = pa.array(uids, pa.binary(UID_BYTES))
    found: dict[bytes, bytes] = {}
    for shard in storage.list_files(directory, ".parquet"):
        fs, path = storage.filesystem(shard)
        with fs.open(path, "rb") as stream, pq.ParquetFile(stream) as file:
            for group in range(file.num_row_groups):
                have = file.read_row_group(group, columns=["uid"]).column("uid")
                if not pc.any(pc.is_in(have, value_set=wanted)).as_py():
                    continue
                rows = file.read_row_group(group, columns=["uid", "image"])
                kept = rows.filter(pc.is_in(rows.column("uid"), value_set=wanted))
                found |= dict(
                    zip(*(kept.column(n).to_pylist() for n in ("uid", "image")), strict=True)
                )
    return found
