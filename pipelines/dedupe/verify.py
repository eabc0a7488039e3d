"""A second look at `deduped_pairs` that shares no code with the search that made it.

faiss compares each pair with every row of the index, one after the other.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import ledger, parquet, storage
from pipelines.dedupe import reference_index
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.search import HashTable, Match, Queries, read_table
from pipelines.dedupe.transform import DATASET, searched_batches
from pipelines.layout import Layout

_COLUMNS = ["uid", *Queries._fields, "dup_of"]


class Remaining(NamedTuple):
    """A pair that should not be there: its uid in hex, and the reference that it copies."""

    uid: str
    match: Match


class Searches:
    """With which earlier batches each was searched for repeats; what each holds is read once.

    Args:
        layout: of the data root.
        order: names of all batches, as they were registered.
    """

    def __init__(self, layout: Layout, order: Sequence[str]):
        self._layout = layout
        self._places = {name: place for place, name in enumerate(order)}
        self._contents: dict[str, str | None] = {}

    def missing(self, batch: str) -> list[str]:
        """Earlier batches that were not finished, or held something else, when it was deduped.

        A picture of theirs may then have stayed in both.

        Args:
            batch: a finished one.

        Raises:
            FileNotFoundError: if it is not among the registered ones, or not finished.
        """
        if batch not in self._places:
            raise FileNotFoundError(f"the crawl batch {batch!r} is not registered any more")
        marker = ledger.require_success(self._layout.dataset(DATASET, batch))
        searched = set(searched_batches(marker).values())
        earlier = itertools.islice(self._places, self._places[batch])
        now = ((name, self._content(name)) for name in earlier)
        return [name for name, content in now if content is not None and content not in searched]

    def _content(self, batch: str) -> str | None:
        """What a batch holds now, None if it is not finished."""
        if batch not in self._contents:
            finished = ledger.read_success(self._layout.dataset(DATASET, batch))
            self._contents[batch] = None if finished is None else finished.content
        return self._contents[batch]


def verify_no_reference_copies(
    layout: Layout, batch: str, config: DedupeConfig, sample: int
) -> list[Remaining]:
    """`remaining_copies` of a crawl batch below the data root."""
    directory = layout.dataset(DATASET, batch)
    return remaining_copies(directory, layout.dataset(reference_index.DATASET), config, sample)


def remaining_copies(
    deduped: str, index: str, config: DedupeConfig, sample: int
) -> list[Remaining]:
    """Compare a sample of the kept pairs with every variant of every reference, one by one.

    Pairs that the modes `flag` and `report` have flagged are known copies and pass.

    Args:
        deduped: directory of the pairs.
        index: directory of the reference index.
        config: the recipe that the batch was made with.
        sample: how many pairs to look at; those with the smallest uid, which is a hash.

    Returns:
        The copies that remain; empty if the batch is clean.
    """
    ledger.require_parts(deduped)
    ledger.require_success(index)
    rows = _smallest_uids(storage.list_files(deduped, ".parquet"), sample)
    if rows is None:
        return []
    queries = Queries.of(rows)
    known = rows.column("dup_of").is_valid().to_numpy()
    asked = np.flatnonzero(~known & (queries.contrast >= config.min_contrast))
    table = read_table(index)
    near: dict[int, tuple[int, int]] = {}
    for short, long in (
        (queries.phash64, queries.phash256),
        (queries.phash64_trimmed, queries.phash256_trimmed),
    ):
        for row, copy in _exhaustive(short[asked], long[asked], table, config):
            near[int(asked[row])] = min(near.get(int(asked[row]), copy), copy)
    uids = rows.column("uid").to_pylist()
    return [
        Remaining(uids[row].hex(), table.match(place, distance))
        for row, (distance, place) in sorted(near.items())
    ]


def _exhaustive(
    phash64: np.ndarray, phash256: np.ndarray, table: HashTable, config: DedupeConfig
) -> list[tuple[int, tuple[int, int]]]:
    """(query, (256-bit distance, place in the table)) of every copy, by faiss's brute force."""
    import faiss

    if not len(phash64) or not len(table.phash64):
        return []
    # Workers share the cores already; faiss must not start threads of its own.
    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(64)
    index.add(np.ascontiguousarray(table.phash64))
    # faiss finds distances strictly less than what it is given.
    limits, _, places = index.range_search(np.ascontiguousarray(phash64), config.radius + 1)
    rows = np.arange(len(phash64)).repeat((limits[1:] - limits[:-1]).astype(np.int64))
    apart = np.unpackbits(phash256[rows] ^ table.phash256[places], axis=1).sum(axis=1)
    hits = np.flatnonzero(apart <= config.confirm)
    return [(int(rows[hit]), (int(apart[hit]), int(places[hit]))) for hit in hits]


def _smallest_uids(shards: list[str], sample: int) -> pa.Table | None:
    chosen: pa.Table | None = None
    for shard in shards:
        for batch in parquet.read_batches(shard, columns=_COLUMNS):
            table = pa.Table.from_batches([batch])
            both = table if chosen is None else pa.concat_tables([chosen, table])
            order = sorted(range(both.num_rows), key=both.column("uid").to_pylist().__getitem__)
            chosen = both.take(pa.array(order[:sample], pa.int64()))
    return chosen
