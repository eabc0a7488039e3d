"""The reference copies of a batch beside what they copy, for people to look at."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

from pipelines import parquet, storage
from pipelines.dedupe.reference_index import reference_pictures
from pipelines.dedupe.transform import Reason, match_of


class Caught(NamedTuple):
    """A copy and its reference.

    Attributes:
        picture: of the pair, encoded.
        caption: as found.
        reference: name of the reference.
        original: small picture of the reference, encoded; empty if the index has none.
        distance: of their 256-bit hashes.
    """

    picture: bytes
    caption: str
    reference: str
    original: bytes
    distance: int


def caught_copies(deduped: str, rejects: str, index: str, count: int) -> list[Caught]:
    """The first `count` reference copies of a batch, dropped or flagged.

    Args:
        deduped: directory of the deduped pairs.
        rejects: directory of what was dropped.
        index: directory of the reference index.
        count: most pairs that are returned.
    """
    found = list(islice(chain(_dropped(rejects), _flagged(deduped)), count))
    originals = reference_pictures(index, [reference for _, _, reference, _ in found])
    return [
        Caught(picture, caption, reference, originals.get(reference) or b"", distance)
        for picture, caption, reference, distance in found
    ]


def _dropped(rejects: str) -> Iterator[tuple[bytes, str, str, int]]:
    columns = ["image", "caption_raw", "reason", "detail"]
    for image, caption, reason, detail in _rows(rejects, columns):
        if reason == Reason.REFERENCE_COPY and image is not None:
            match = match_of(str(detail))
            yield image, caption or "", match.reference, match.distance


def _flagged(deduped: str) -> Iterator[tuple[bytes, str, str, int]]:
    columns = ["image", "caption_raw", "dup_of", "dup_distance"]
    for image, caption, reference, distance in _rows(deduped, columns):
        if reference is not None:
            yield image, caption, reference, distance


def _rows(directory: str, columns: list[str]) -> Iterator[tuple]:
    for url in storage.list_files(directory, ".parquet"):
        for batch in parquet.read_batches(url, columns=columns, rows=256):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
