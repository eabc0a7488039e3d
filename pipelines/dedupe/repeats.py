"""Repeats inside the crawl: pairs that show a picture which another pair shows already.

A repeat has the same original bytes as the other pair, or a near-identical picture: both hashes
and the mean colours close by, as after re-encoding or scaling (variants of one drawing that
differ in colour are no repeats).

What is kept: a pair of an earlier batch before all of this one, for earlier batches may have been
published. Within the batch the best caption (`Signatures.best_first`) of equal files; then, best
first, each pair that is not near-identical to one kept before it. The order of rows and shards
does not matter.

Memory holds the signatures of one batch; of earlier batches those that may match are streamed past
them (`kept_signatures`).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import parquet, storage
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.hashes import distances
from pipelines.dedupe.kept_signatures import Keys, file_keys, read_kept, write_kept
from pipelines.dedupe.multi_index import MultiIndex
from pipelines.dedupe.signatures import SCHEMA, Signatures, read_signatures, write_signatures
from pipelines.layout import join
from pipelines.runners import Engine
from pipelines.schemas import UID_BYTES

DIRECTORY = "_repeats"
FILE = "repeats.parquet"
_QUERIES = 512
SAME_FILE = -1

REPEATS = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("kept_uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("distance", pa.int16(), nullable=False),  # of 256 bits; -1 for the same file
        pa.field("earlier", pa.int32()),  # place of the earlier batch
    ]
)


class Repeat(NamedTuple):
    """The pair that is kept instead, and how far its picture is."""

    kept_uid: bytes
    distance: int
    earlier: int | None


class _Pairs(NamedTuple):
    """Places of later and of earlier pictures that are the same, and their distance: int64 [P]."""

    later: np.ndarray
    earlier: np.ndarray
    distance: np.ndarray


def find_repeats(
    shards: Sequence[str],
    earlier: Sequence[str],
    directory: str,
    config: DedupeConfig,
    engine: Engine,
) -> str:
    """Write which pairs of a batch repeat another one.

    Args:
        shards: Parquet files of curated pairs.
        earlier: directories of deduped pairs of earlier batches, the earliest first; all finished.
        directory: where intermediate files and the result go.
        config: what counts as near-identical.
        engine: the Beam engine.

    Returns:
        URL of a Parquet file in the schema `REPEATS`, sorted by uid.
    """
    url = join(directory, FILE)
    if storage.exists(url):
        return url
    signed = [(s, join(directory, "signatures", f"{i:05d}.parquet")) for i, s in enumerate(shards)]
    _for_each(engine, signed, functools.partial(_sign, coloured=config.near_repeats))
    files = [url for _, url in signed]
    matched = [
        (join(e, DIRECTORY), place, join(directory, "earlier", f"{place:05d}.parquet"))
        for place, e in enumerate(earlier)
    ]
    _for_each(engine, matched, functools.partial(_match_earlier, files=tuple(files), config=config))
    batch = read_signatures(files)
    before = _first_of([url for _, _, url in matched])
    parquet.write(url, _all_repeats(batch, before, config).to_batches(), REPEATS)
    return url


def read_repeats(url: str) -> dict[bytes, Repeat]:
    """uid of each repeat to what is kept instead of it."""
    found = {}
    for batch in parquet.read_batches(url):
        for row in batch.to_pylist():
            found[row["uid"]] = Repeat(row["kept_uid"], row["distance"], row["earlier"])
    return found


def keep_signatures(work: str, shards: Sequence[str], output: str) -> None:
    """Keep the signatures of the pairs in `shards` for the batches that come later."""
    batches = [b for s in shards for b in parquet.read_batches(s, columns=["uid"], rows=65536)]
    kept = pa.chunked_array([b.column("uid") for b in batches], pa.binary(UID_BYTES))
    tables = [
        pa.Table.from_batches(parquet.read_batches(url, rows=65536), SCHEMA)
        for url in storage.list_files(join(work, "signatures"), ".parquet")
    ]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    write_kept(join(output, DIRECTORY), table.filter(pc.is_in(table.column("uid"), kept)))


def _for_each(engine: Engine, tasks: Sequence[tuple], work: functools.partial[None]) -> None:
    import apache_beam as beam

    left = [task for task in tasks if not storage.exists(task[-1])]
    if not left:
        return
    with engine.pipeline() as pipeline:
        _ = (
            pipeline
            | "tasks" >> beam.Create(left)
            | "spread" >> beam.Reshuffle()
            | work.func.__name__ >> beam.Map(work)
        )


def _sign(task: tuple[str, str], coloured: bool) -> None:
    write_signatures(*task, coloured=coloured)


def _match_earlier(
    task: tuple[str, int, str], files: tuple[str, ...], config: DedupeConfig
) -> None:
    """Stream an earlier batch's kept pictures past this batch; write which of this are repeats."""
    kept, place, url = task
    index = _loaded(files, config)
    best: dict[int, tuple[int, bytes]] = {}
    for others in read_kept(kept, index.candidates):
        for found in (index.same_files(others), *index.near(others)):
            for other, own, distance in zip(*found, strict=True):
                candidate = (int(distance), others.uid[other].tobytes())
                best[int(own)] = min(best.get(int(own), candidate), candidate)
    rows = [
        {
            "uid": index.pictures.uid[own].tobytes(),
            "kept_uid": uid,
            "distance": distance,
            "earlier": place,
        }
        for own, (distance, uid) in sorted(best.items())
    ]
    parquet.write(url, pa.Table.from_pylist(rows, REPEATS).to_batches(), REPEATS)


@functools.lru_cache(maxsize=1)
def _loaded(files: tuple[str, ...], config: DedupeConfig) -> "RepeatIndex":
    return RepeatIndex(read_signatures(files), config)


def _first_of(urls: Sequence[str]) -> dict[bytes, Repeat]:
    """Of the earlier batches that hold a picture, the first counts."""
    found: dict[bytes, Repeat] = {}
    for url in reversed(urls):
        found |= read_repeats(url)
    return found


def _all_repeats(batch: Signatures, before: dict[bytes, Repeat], config: DedupeConfig) -> pa.Table:
    known = np.array([uid.tobytes() in before for uid in batch.uid], bool)
    left = batch.take(~known)
    left = left.take(left.best_first())
    rows = [(uid, *repeat) for uid, repeat in before.items()]
    _, first, group = np.unique(
        np.ascontiguousarray(left.sha256).view("V32").ravel(),
        return_index=True,
        return_inverse=True,
    )
    kept = first[group]
    rows += [
        (left.uid[row].tobytes(), left.uid[kept[row]].tobytes(), SAME_FILE, None)
        for row in np.flatnonzero(kept != np.arange(len(kept)))
        if (left.uid[row] != left.uid[kept[row]]).any()
    ]
    single = left.take(np.sort(first))
    rows += [
        (single.uid[later].tobytes(), single.uid[leader].tobytes(), distance, None)
        for later, leader, distance in _leaders(single, config)
    ]
    columns = list(zip(*sorted(rows, key=lambda row: row[0]), strict=True)) or [()] * 4
    arrays = [pa.array(c, f.type) for c, f in zip(columns, REPEATS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=REPEATS)


def _leaders(ranked: Signatures, config: DedupeConfig) -> Iterator[tuple[int, int, int]]:
    """(picture, the better one that is kept, distance) for near-identical ones, best first."""
    if not config.near_repeats:
        return
    dropped: set[int] = set()
    for found in RepeatIndex(ranked, config).near(ranked):
        for later, leader, distance in sorted(zip(*(c.tolist() for c in found), strict=True)):
            if leader < later and later not in dropped and leader not in dropped:
                dropped.add(later)
                yield later, leader, distance


class RepeatIndex:
    """Pictures by their files and hashes, to find those that are the same."""

    def __init__(self, pictures: Signatures, config: DedupeConfig):
        self.pictures = pictures
        self._config = config
        # The hash of a flat picture is noise.
        self._places = np.flatnonzero(pictures.contrast >= config.min_contrast)
        self._index = MultiIndex(pictures.phash64[self._places])
        files = file_keys(pictures.sha256)
        self._by_file = np.argsort(files, kind="stable")
        self._files = files[self._by_file]

    def candidates(self, keys: Keys) -> np.ndarray:
        """Places of the keys that may be of the same file or nearly the same picture."""
        found = np.isin(keys.file, self._files)
        if self._config.near_repeats:
            asked = np.flatnonzero(keys.contrast >= self._config.min_contrast)
            near = self._index.within(keys.phash64[asked], self._config.repeat_radius)
            found[asked[near.queries]] = True
        return np.flatnonzero(found)

    def same_files(self, others: Signatures) -> _Pairs:
        """(other, picture) of equal original bytes."""
        files = file_keys(others.sha256)
        first, end = (np.searchsorted(self._files, files, side) for side in ("left", "right"))
        later = np.repeat(np.arange(len(files)), end - first)
        spans = [np.arange(*span) for span in zip(first, end, strict=True)]
        own = self._by_file[np.concatenate([np.empty(0, np.int64), *spans])]
        keep = (others.sha256[later] == self.pictures.sha256[own]).all(axis=1)
        return _Pairs(later[keep], own[keep], np.full(int(keep.sum()), SAME_FILE))

    def near(self, others: Signatures) -> Iterator[_Pairs]:
        """Near-identical (other, picture) in the order of `others`, in pieces."""
        if not self._config.near_repeats:
            return
        asked = np.flatnonzero(others.contrast >= self._config.min_contrast)
        for start in range(0, len(asked), _QUERIES):
            some = asked[start : start + _QUERIES]
            found = self._index.within(others.phash64[some], self._config.repeat_radius)
            later, own = some[found.queries], self._places[found.rows]
            far = distances(others.phash256[later], self.pictures.phash256[own])
            keep = far <= self._config.repeat_confirm
            later, own, far = later[keep], own[keep], far[keep]
            levels = others.colour[later].astype(np.int16) - self.pictures.colour[own]
            keep = np.abs(levels).max(axis=1, initial=0) <= self._config.repeat_colour
            yield _Pairs(later[keep], own[keep], far[keep])
