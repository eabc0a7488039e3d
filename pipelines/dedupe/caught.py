"""Reference copies and repeats of a batch beside what they copy, for people to look at."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from pipelines import parquet, storage
from pipelines.dedupe.reference_index import reference_pictures
from pipelines.dedupe.repeats import Repeat
from pipelines.dedupe.transform import Reason, match_of, repeat_of
from pipelines.stored_pictures import stored_pictures


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


class Repeated(NamedTuple):
    """A repeat and what is kept instead of it.

    Attributes:
        picture: small picture of the repeat, encoded.
        caption: as found.
        kept: picture of the pair that is kept, encoded; empty if that was dropped itself.
        repeat: how far they are, and where the other one is.
    """

    picture: bytes
    caption: str
    kept: bytes
    repeat: Repeat


def caught_repeats(
    deduped: str, rejects: str, earlier: Sequence[str], count: int
) -> list[Repeated]:
    """The first `count` repeats of a batch.

    Args:
        deduped: directory of the deduped pairs.
        rejects: directory of what was dropped.
        earlier: those of the finished earlier batches, as the deduplication took them.
        count: most repeats that are returned.
    """
    found = list(islice(_repeats(rejects), count))
    kept: dict[bytes, bytes] = {}
    for place in {repeat.earlier for _, _, repeat in found}:
        uids = [repeat.kept_uid for _, _, repeat in found if repeat.earlier == place]
        kept |= stored_pictures(deduped if place is None else earlier[place], uids)
    return [
        Repeated(picture, caption, kept.get(repeat.kept_uid, b""), repeat)
        for picture, caption, repeat in found
    ]


def _repeats(rejects: str) -> Iterator[tuple[bytes, str, Repeat]]:
    columns = ["image", "caption_raw", "reason", "detail"]
    for image, caption, reason, detail in _rows(rejects, columns):
        if reason in (Reason.REPEAT, Reason.NEAR_REPEAT) and image is not None:
            yield image, caption or "", repeat_of(str(detail))


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
