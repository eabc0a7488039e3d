"""The pictures that a card shows, from the pairs that were encoded."""

import io

from PIL import Image

from pipelines import parquet
from pipelines.layout import Layout
from pipelines.publish.manifest import METADATA
from pipelines.publish.shuffle import BATCH
from pipelines.stored_pictures import stored_pictures

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
        pictures |= stored_pictures(layout.dataset("deduped_pairs", batch), wanted)
    return {
        f"{_DIRECTORY}/{uid.hex()}.{_extension(pictures[uid])}": (caption, pictures[uid])
        for uid, (caption, _) in first.items()
    }


def _extension(picture: bytes) -> str:
    """Of the format that curation wrote: png, jpeg or webp."""
    with Image.open(io.BytesIO(picture)) as opened:
        return str(opened.format).lower()
