"""Which references of a build are new, and the joint tables of what was known and what is new."""

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import parquet, storage
from pipelines.dedupe import reference_hashing as hashing
from pipelines.dedupe.attacks import ATTACKS
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_hashing import REFERENCES, Tables, Work
from pipelines.dedupe.references import Listing, sample_order
from pipelines.dedupe.search import HASHES_FILE, file_sha256
from pipelines.layout import join
from pipelines.ledger import Finished

REFERENCES_FILE = "references/references.parquet"
QUERIES_FILE = "measured/queries.parquet"
_ROWS = 65536
log = logging.getLogger(__name__)


def sample(listing: Listing, config: DedupeConfig) -> list[str]:
    """Names of the references that are attacked; some more than asked, for some are damaged."""
    count = config.measured_references
    names = sorted((r.name for r in listing.references), key=sample_order)
    return names[: count + count // 4 + 4 if count else 0]


def known_tables(output: str, done: Finished | None, recipe: str) -> Tables:
    """The tables of the last build, empty where they cannot be built upon."""
    empty = Tables(*(schema.empty_table() for schema in hashing.SCHEMAS))
    if done is None or done.details.get("recipe") != recipe:
        return empty
    tables = []
    for name, schema in zip(
        (HASHES_FILE, REFERENCES_FILE, QUERIES_FILE), hashing.SCHEMAS, strict=True
    ):
        url = join(output, name)
        digest = file_sha256(url) if storage.exists(url) else ""
        if digest != done.details["files"].get(name):
            log.warning("%s is not what was built; every reference is hashed again", url)
            return empty
        batches = parquet.read_batches(url, rows=_ROWS)
        tables.append(pa.Table.from_batches([b.cast(schema) for b in batches], schema))
    return Tables(*tables)


def works(listing: Listing, known: Tables, config: DedupeConfig) -> list[Work]:
    """What is new, changed, or to be attacked for the first time."""
    columns = (
        known.references.column(name).to_pylist() for name in ("reference", "stamp", "sha256")
    )
    before = {name: (stamp, sha256) for name, stamp, sha256 in zip(*columns, strict=True)}
    attacked = set(known.queries.column("reference").to_pylist())
    chosen = set(sample(listing, config))
    found = []
    for reference in listing.references:
        stamp, sha256 = before.get(reference.name, (None, None))
        unchanged = stamp is not None and stamp == reference.stamp
        attacks = reference.name in chosen and not (unchanged and reference.name in attacked)
        if not unchanged or attacks:
            found.append(Work(reference, sha256, True, tuple(ATTACKS) if attacks else ()))
    return found


def merge(listing: Listing, known: Tables, new: Tables, attacked: Sequence[str]) -> Tables:
    """The last build's rows of what is unchanged, and the new ones, by reference."""
    before = {row["reference"]: row for row in known.references.to_pylist()}
    rows = {r.name: before.get(r.name) for r in listing.references}
    fresh: set[str] = set()
    for row in new.references.to_pylist():
        name = row["reference"]
        if row["outcome"] == hashing.UNCHANGED:
            rows[name] = before[name] | {"stamp": row["stamp"]}
        else:
            rows[name] = row
            fresh.add(name)
    references = pa.Table.from_pylist([rows[name] for name in sorted(rows)], REFERENCES)
    kept = [name for name in rows if name not in fresh]
    asked = set(attacked) - set(new.queries.column("reference").to_pylist())
    old = [name for name in kept if name in asked]
    return Tables(
        _by_reference(known.hashes, kept, new.hashes),
        references,
        _by_reference(known.queries, old, new.queries),
    )


def _by_reference(old: pa.Table, kept: Sequence[str], new: pa.Table) -> pa.Table:
    own = old.filter(pc.is_in(old.column("reference"), pa.array(kept, pa.string())))
    both = pa.concat_tables([own, new]).combine_chunks()
    return both.take(pc.sort_indices(both.column("reference")))
