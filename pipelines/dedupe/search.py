"""Exact search for reference copies: candidates from a faiss binary index, then 256 bits."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import ledger, parquet, storage
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.hashes import distances, unpacked
from pipelines.layout import join

HASHES_FILE = "hashes.parquet"
INDEX_FILE = "index.faiss"


class Match(NamedTuple):
    """The nearest variant of a reference, and its 256-bit Hamming distance."""

    reference: str
    variant: str
    distance: int


class Queries(NamedTuple):
    """Hashes of N pictures, as `curated_pairs` holds them.

    Attributes:
        phash64: uint8 [N, 8].
        phash256: uint8 [N, 32].
        phash64_trimmed: uint8 [N, 8], without the plain border.
        phash256_trimmed: uint8 [N, 32], without the plain border.
        contrast: float32 [N].
    """

    phash64: np.ndarray
    phash256: np.ndarray
    phash64_trimmed: np.ndarray
    phash256_trimmed: np.ndarray
    contrast: np.ndarray

    @classmethod
    def of(cls, rows: pa.RecordBatch | pa.Table) -> "Queries":
        """Take the hash columns of curated rows."""
        return cls(
            unpacked(rows.column("phash64")),
            unpacked(rows.column("phash256")),
            unpacked(rows.column("phash64_trimmed")),
            unpacked(rows.column("phash256_trimmed")),
            rows.column("contrast").to_numpy(zero_copy_only=False),
        )


@dataclass(frozen=True)
class HashTable:
    """Every hash variant of every reference.

    Attributes:
        references: name of the reference of each of V variants.
        variants: name of each variant.
        phash64: uint8 [V, 8].
        phash256: uint8 [V, 32].
    """

    references: Sequence[str]
    variants: Sequence[str]
    phash64: np.ndarray
    phash256: np.ndarray


class ReferenceIndex:
    """The hash table with a faiss index over its 64-bit hashes."""

    def __init__(self, table: HashTable, config: DedupeConfig, faiss_index: Any):
        self._table = table
        self._config = config
        self._faiss = faiss_index

    def match(self, queries: Queries, ignore: Sequence[str] | None = None) -> list[Match | None]:
        """The reference that each picture copies, if any.

        Ties go to the first variant in the table's order. Pictures of too little contrast are
        not decided upon and match nothing.

        Args:
            queries: hashes of N pictures.
            ignore: for each picture, the one reference that it may not match.
        """
        count = len(queries.contrast)
        decided = queries.contrast >= self._config.min_contrast
        found = [
            self._within(queries.phash64, queries.phash256),
            self._within(queries.phash64_trimmed, queries.phash256_trimmed),
        ]
        rows, places, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
        keep = decided[rows]
        if ignore is not None:
            names = np.asarray(self._table.references, dtype=object)
            keep &= names[places] != np.asarray(ignore, dtype=object)[rows]
        rows, places, distance = rows[keep], places[keep], distance[keep]
        order = np.lexsort((places, distance, rows))
        _, first = np.unique(rows[order], return_index=True)
        matches: list[Match | None] = [None] * count
        for best in order[first]:
            place = int(places[best])
            name, variant = self._table.references[place], self._table.variants[place]
            matches[int(rows[best])] = Match(name, variant, int(distance[best]))
        return matches

    def _within(
        self, phash64: np.ndarray, phash256: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, place in the table, 256-bit distance) of every confirmed candidate."""
        if not len(phash64) or not len(self._table.references):
            return (np.empty(0, np.int64),) * 3
        # faiss finds distances strictly less than what it is given.
        limits, _, places = self._faiss.range_search(
            np.ascontiguousarray(phash64), self._config.radius + 1
        )
        rows = np.repeat(np.arange(len(phash64)), np.diff(limits.astype(np.int64)))
        distance = distances(phash256[rows], self._table.phash256[places])
        near = distance <= self._config.confirm
        return rows[near], places[near], distance[near]


def build_faiss(phash64: np.ndarray) -> Any:
    """An exact faiss index over uint8 [V, 8]."""
    import faiss

    index = faiss.IndexBinaryFlat(64)
    index.add(np.ascontiguousarray(phash64))
    return index


def write_faiss(url: str, index: Any) -> str:
    """Write a faiss index atomically; returns its SHA-256 in hex."""
    import faiss

    data = faiss.serialize_index_binary(index).tobytes()
    storage.write_bytes(url, data)
    return hashlib.sha256(data).hexdigest()


def read_table(directory: str) -> HashTable:
    """The hash table of a finished index directory."""
    batches = list(parquet.read_batches(join(directory, HASHES_FILE), rows=65536))
    rows = pa.Table.from_batches(batches, parquet.read_schema(join(directory, HASHES_FILE)))
    return HashTable(
        rows.column("reference").to_pylist(),
        rows.column("variant").to_pylist(),
        unpacked(rows.column("phash64")),
        unpacked(rows.column("phash256")),
    )


@functools.lru_cache(maxsize=1)
def load_index(directory: str, content: str, config: DedupeConfig) -> ReferenceIndex:
    """Load a finished index, once per process and content.

    Args:
        directory: of the dataset `coco_hash_index`.
        content: `Finished.content` that the directory must have.
        config: the radii of the search.

    Raises:
        ValueError: if the files are not the ones that the marker vouches for.
    """
    import faiss

    finished = ledger.require_success(directory)
    files: dict[str, str] = finished.details["files"]
    data = storage.read_bytes(join(directory, INDEX_FILE))
    table = storage.read_bytes(join(directory, HASHES_FILE))
    found = {
        HASHES_FILE: hashlib.sha256(table).hexdigest(),
        INDEX_FILE: hashlib.sha256(data).hexdigest(),
    }
    if found != files or finished.content != content:
        raise ValueError(
            f"the files in {directory} are not those that were built (their SHA-256 differ); "
            "delete the directory and build the index again"
        )
    # Workers share the cores already; faiss must not start threads of its own.
    faiss.omp_set_num_threads(1)
    index = faiss.deserialize_index_binary(np.frombuffer(data, np.uint8))
    return ReferenceIndex(read_table(directory), config, index)
