"""What an index catches of attacked references, and how often it flags unrelated pictures."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import parquet, storage
from pipelines.dedupe.attacks import ATTACKS
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.hashes import distances
from pipelines.dedupe.multi_index import MultiIndex
from pipelines.dedupe.references import sample_order
from pipelines.dedupe.search import HashTable, Queries, ReferenceIndex
from pipelines.layout import join

DIRECTORY = "measured"
RECALL_FILE = "recall.parquet"
FALSE_FLAGS_FILE = "false_flags.parquet"
PLOT_FILE = "recall.png"
_SHARES = [
    pa.field("tried", pa.int64(), nullable=False),
    pa.field("caught", pa.int64(), nullable=False),
    pa.field("share", pa.float64()),
    pa.field("low_95", pa.float64(), nullable=False),
    pa.field("high_95", pa.float64(), nullable=False),
    pa.field("plain_caught", pa.int64(), nullable=False),
]
RECALL = pa.schema(
    [pa.field("attack", pa.string(), nullable=False), *_SHARES],
    metadata={"plain_caught": "by the 64-bit hash of the full frame alone, at the same radius"},
)
FALSE_FLAGS = pa.schema(
    [pa.field("against", pa.string(), nullable=False), *_SHARES], metadata=RECALL.metadata
)


def wilson(events: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, JASA 22, 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    z = 1.96
    share = events / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    whole = 1 + z * z / trials
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def recall(index: ReferenceIndex, queries: pa.Table, config: DedupeConfig) -> pa.Table:
    """Per attack, how many attacked references are found as copies of themselves.

    Args:
        index: what is measured.
        queries: rows of `reference_hashing.QUERIES`.
        config: the radii, and how many references count: more than asked were attacked, for some
            may be damaged or flat.
    """
    rows = []
    attacked = sorted(set(queries.column("reference").to_pylist()), key=sample_order)
    counted = pa.array(attacked[: config.measured_references], pa.string())
    queries = queries.filter(pa.compute.is_in(queries.column("reference"), counted))
    full = _full_frames(index.table)
    for attack in ATTACKS:
        own = queries.filter(pa.compute.equal(queries.column("attack"), attack)).combine_chunks()
        if not own.num_rows:
            continue
        names = own.column("reference").to_pylist()
        asked = Queries.of(own)
        matches = index.match(asked)
        caught = sum(
            m is not None and m.reference == n for m, n in zip(matches, names, strict=True)
        )
        originals = index.table.phash64[[full[name] for name in names]]
        plain = int((distances(asked.phash64, originals) <= config.radius).sum())
        rows.append({"attack": attack, **_share(caught, len(names), plain)})
    return pa.Table.from_pylist(rows, RECALL)


def false_flags(
    index: ReferenceIndex, unrelated: pa.Table | None, config: DedupeConfig
) -> pa.Table:
    """How many pictures that copy no reference are flagged.

    References are asked for without their own hashes; two references that are copies of each
    other count as false flags, so this is an upper bound.

    Args:
        index: what is measured.
        unrelated: rows of `reference_hashing.QUERIES` of a set that holds no copies.
        config: the radii, and how many references are asked for.
    """
    table = index.table
    full = _full_frames(table)
    names = sorted(full, key=sample_order)[: config.measured_unrelated]
    trimmed = _rows_of(table, "trimmed")
    places = np.array([full[name] for name in names], np.int64)
    inner = np.array([trimmed.get(name, full[name]) for name in names], np.int64)
    hashed = (table.phash64[places], table.phash256[places])
    asked = Queries(
        *hashed,
        table.phash64[inner],
        table.phash256[inner],
        np.full(len(names), np.inf, np.float32),
    )
    plain = MultiIndex(table.phash64[[*full.values()]])
    flagged = sum(match is not None for match in index.match(asked, ignore=names))
    near = plain.within(asked.phash64, config.radius).queries
    others = int((np.bincount(near, minlength=len(names)) > 1).sum())
    rows = [{"against": "other references", **_share(flagged, len(names), others)}]
    if unrelated is not None:
        asked = Queries.of(unrelated)
        flagged = sum(match is not None for match in index.match(asked))
        others = len(np.unique(plain.within(asked.phash64, config.radius).queries))
        count = len(asked.contrast)
        rows.append({"against": "the given set", **_share(flagged, count, others)})
    return pa.Table.from_pylist(rows, FALSE_FLAGS)


def write_measured(directory: str, recalled: pa.Table, flagged: pa.Table) -> dict[str, str]:
    """Write both tables and the plot; name below `directory` to SHA-256."""
    written = {}
    for name, table in ((RECALL_FILE, recalled), (FALSE_FLAGS_FILE, flagged)):
        url = join(directory, DIRECTORY, name)
        written[f"{DIRECTORY}/{name}"] = parquet.write(url, table.to_batches(), table.schema).sha256
    storage.write_bytes(join(directory, DIRECTORY, PLOT_FILE), plot(recalled, flagged))
    return written


def read_measured(directory: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the recall table and of the table of false flags of a finished index."""
    found = []
    for name in (RECALL_FILE, FALSE_FLAGS_FILE):
        batches = parquet.read_batches(join(directory, DIRECTORY, name))
        found.append([row for batch in batches for row in batch.to_pylist()])
    return found[0], found[1]


def plot(recalled: pa.Table, flagged: pa.Table) -> bytes:
    """Recall by attack with its 95 % interval beside the plain hash's, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = recalled.to_pylist()
    figure = Figure(figsize=(7, 1.2 + 0.2 * max(len(rows), 1)), dpi=100, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    heights = list(range(len(rows)))
    shares = [row["share"] for row in rows]
    low = [max(0.0, row["share"] - row["low_95"]) for row in rows]
    high = [max(0.0, row["high_95"] - row["share"]) for row in rows]
    axes.barh(heights, shares, color="#4477aa", xerr=(low, high), ecolor="#222222", label="index")
    plain = [row["plain_caught"] / row["tried"] for row in rows]
    axes.plot(plain, heights, "o", color="#ee6677", label="64-bit hash alone")
    axes.set_yticks(heights, [row["attack"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of attacked references that are found (95 % interval)")
    axes.set_title("; ".join(_said(row) for row in flagged.to_pylist()), fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _said(row: Mapping[str, Any]) -> str:
    return (
        f"false flags against {row['against']}: {row['caught']} of {row['tried']} "
        f"(at most {row['high_95']:.2%})"
    )


def _share(caught: int, tried: int, plain: int) -> dict[str, Any]:
    low, high = wilson(caught, tried)
    return {
        "tried": tried,
        "caught": caught,
        "share": caught / tried if tried else None,
        "low_95": low,
        "high_95": high,
        "plain_caught": plain,
    }


def _full_frames(table: HashTable) -> dict[str, int]:
    """Reference to the place of its full frame's hashes."""
    return _rows_of(table, "full")


def _rows_of(table: HashTable, variant: str) -> dict[str, int]:
    names: Sequence[str] = table.variants.dictionary.to_pylist()
    if variant not in names:
        return {}
    code = names.index(variant)
    places = np.flatnonzero(table.variants.indices.to_numpy(zero_copy_only=False) == code)
    return {table.names[table.references[place]]: int(place) for place in places}
