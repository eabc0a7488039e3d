"""A second look at `deduped_pairs` that shares no code with the search that made it."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import ledger, parquet, storage
from pipelines.dedupe import reference_index
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.hashes import distances
from pipelines.dedupe.search import Match, Queries, read_table
from pipelines.layout import Layout

_COLUMNS = ["uid", *Queries._fields, "dup_of"]


class Remaining(NamedTuple):
    """A pair that should not be there: its uid in hex, and the reference that it copies."""

    uid: str
    match: Match


def verify_no_reference_copies(
    layout: Layout, batch: str, config: DedupeConfig, sample: int
) -> list[Remaining]:
    """Compare a sample of the kept pairs with every variant of every reference, one by one.

    Pairs that mode `flag` has flagged are known copies and pass.

    Args:
        layout: where `deduped_pairs` and `coco_hash_index` are.
        batch: name of the crawl batch.
        config: the recipe that the batch was made with.
        sample: how many pairs to look at; those with the smallest uid, which is a hash.

    Returns:
        The copies that remain; empty if the batch is clean.
    """
    source = layout.dataset("deduped_pairs", batch)
    ledger.require_success(source)
    references = layout.dataset(reference_index.DATASET)
    ledger.require_success(references)
    table = read_table(references)
    rows = _smallest_uids(storage.list_files(source, ".parquet"), sample)
    if rows is None:
        return []
    queries = Queries.of(rows)
    known = rows.column("dup_of").is_valid().to_pylist()
    remaining = []
    for row, uid in enumerate(rows.column("uid").to_pylist()):
        if known[row] or queries.contrast[row] < config.min_contrast:
            continue
        for short, long in (
            (queries.phash64[row], queries.phash256[row]),
            (queries.phash64_trimmed[row], queries.phash256_trimmed[row]),
        ):
            far = distances(long, table.phash256)
            copies = np.flatnonzero(
                (distances(short, table.phash64) <= config.radius) & (far <= config.confirm)
            )
            if len(copies):
                place = int(copies[far[copies].argmin()])
                match = Match(table.references[place], table.variants[place], int(far[place]))
                remaining.append(Remaining(uid.hex(), match))
                break
    return remaining


def _smallest_uids(shards: list[str], sample: int) -> pa.Table | None:
    chosen: pa.Table | None = None
    for shard in shards:
        for batch in parquet.read_batches(shard, columns=_COLUMNS):
            table = pa.Table.from_batches([batch])
            both = table if chosen is None else pa.concat_tables([chosen, table])
            order = sorted(range(both.num_rows), key=both.column("uid").to_pylist().__getitem__)
            chosen = both.take(pa.array(order[:sample], pa.int64()))
    return chosen
