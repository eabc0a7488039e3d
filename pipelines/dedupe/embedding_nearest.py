"""The pairs of a batch that are nearest to a reference, for people to look at."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import parquet, storage
from pipelines.dedupe.reference_index import reference_pictures


class Near(NamedTuple):
    """A pair and its nearest reference.

    Attributes:
        similarity: of their embeddings.
        picture: of the pair, encoded.
        caption: of the pair.
        reference: name of the reference.
        original: small picture of the reference, encoded.
    """

    similarity: float
    picture: bytes
    caption: str
    reference: str
    original: bytes


def nearest_pairs(overlap: str, deduped: str, index: str, count: int) -> list[Near]:
    """The `count` pairs of the greatest similarity, the greatest first.

    Args:
        overlap: directory of the batch's `embedding_overlap`.
        deduped: directory of its `deduped_pairs`.
        index: directory of the reference index.
        count: most pairs that are returned.
    """
    best = heapq.nlargest(count, _similarities(overlap))
    pictures = _pictures(deduped, [uid for _, uid, _ in best])
    originals = reference_pictures(index, [reference for _, _, reference in best])
    return [
        Near(similarity, *pictures[uid], reference, originals.get(reference) or b"")
        for similarity, uid, reference in best
    ]


def _similarities(overlap: str) -> Iterator[tuple[float, bytes, str]]:
    columns = ["similarity", "uid", "reference"]
    for url in storage.list_files(overlap, ".parquet"):
        for batch in parquet.read_batches(url, columns=columns):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _pictures(deduped: str, uids: list[bytes]) -> dict[bytes, tuple[bytes, str]]:
    """Picture and caption of some pairs, by uid."""
    found = {}
    for url in storage.list_files(deduped, ".parquet"):
        for batch in parquet.read_batches(url, columns=["uid", "image", "caption"], rows=256):
            wanted = pa.array(uids, batch.schema.field("uid").type)
            for row in batch.filter(pc.is_in(batch.column("uid"), wanted)).to_pylist():
                found[row["uid"]] = (row["image"], row["caption"])
    return found
