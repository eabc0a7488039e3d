"""The pictures that a card shows, from the pairs that were encoded."""

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipelines import parquet, storage
from pipelines.layout import Layout
from pipelines.publish.manifest import METADATA
from pipelines.publish.shuffle import BATCH

_DIRECTORY = "samples"


def sample_pictures(layout: Layout, built: str, count: int) -> dict[str, tuple[str, bytes]]:
    """The first pairs of a version: caption and picture by path in the version.

    Args:
        layout: of the data root, where `deduped_pairs` lies.
        built: local directory of the version's tables.
        count: pairs to show, at most; they are a random sample, since the rows are shuffled.
    """
    rows = next(parquet.read_batches(f"{built}/{METADATA}/part-00000.parquet"))
    first: dict[bytes, tuple[str, str]] = {}
    for row in rows.select(["uid", "caption", BATCH]).to_pylist():
        if len(first) < count:
            first.setdefault(row["uid"], (row["caption"], row[BATCH]))
    pictures: dict[bytes, bytes] = {}
    for batch in sorted({batch for _, batch in first.values()}):
        wanted = [uid for uid, (_, found_in) in first.items() if found_in == batch]
        pictures |= _pictures(layout.dataset("deduped_pairs", batch), wanted)
    return {
        f"{_DIRECTORY}/{uid.hex()}.{_extension(pictures[uid])}": (caption, pictures[uid])
        for uid, (caption, _) in first.items()
    }


def _pictures(directory: str, uids: list[bytes]) -> dict[bytes, bytes]:
    """Stored pictures by uid; reads the uid column, and the row groups that have one of them."""
    wanted = pa.array(uids, pa.binary(16))
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


def _extension(picture: bytes) -> str:
    """Of the format that curation wrote: png, jpeg or webp."""
    with Image.open(io.BytesIO(picture)) as opened:
        return str(opened.format).lower()
