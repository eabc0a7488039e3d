"""Exact search for reference copies: candidates by 64-bit hash, confirmed by 256 bits."""

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines import ledger, parquet, storage
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.hashes import distances, unpacked
from pipelines.dedupe.multi_index import MultiIndex
from pipelines.layout import join

HASHES_FILE = "hashes.parquet"
_LOADING = threading.Lock()


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
        names: of the references, each once.
        references: place in `names` of each of V variants, int32 [V].
        variants: name of each variant, V of them.
        phash64: uint8 [V, 8].
        phash256: uint8 [V, 32].
    """

    names: Sequence[str]
    references: np.ndarray
    variants: pa.DictionaryArray
    phash64: np.ndarray
    phash256: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> "HashTable":
        """Take rows of `coco_hash_index`."""
        references = rows.column("reference").combine_chunks().dictionary_encode()
        return cls(
            references.dictionary.to_pylist(),
            references.indices.to_numpy(zero_copy_only=False),
            rows.column("variant").combine_chunks().dictionary_encode(),
            unpacked(rows.column("phash64")),
            unpacked(rows.column("phash256")),
        )

    def match(self, row: int, distance: int) -> Match:
        """The match of one row at a distance."""
        return Match(
            self.names[self.references[row]], self.variants[int(row)].as_py(), int(distance)
        )


class ReferenceIndex:
    """The hash table with an index over its 64-bit hashes."""

    def __init__(self, table: HashTable, config: DedupeConfig):
        self.table = table
        self._config = config
        self._index = MultiIndex(table.phash64)

    def match(
        self,
        queries: Queries,
        *,
        only: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
    ) -> list[Match | None]:
        """The reference that each picture copies, if any.

        Ties go to the first variant in the table's order. Pictures of too little contrast are
        not decided upon and match nothing.

        Args:
            queries: hashes of N pictures.
            only: for each picture, the one reference that it may match.
            ignore: for each picture, the one reference that it may not match.
        """
        count = len(queries.contrast)
        decided = queries.contrast >= self._config.min_contrast
        bordered = (queries.phash64 != queries.phash64_trimmed).any(axis=1)
        bordered |= (queries.phash256 != queries.phash256_trimmed).any(axis=1)
        found = [
            self._within(queries.phash64, queries.phash256, np.flatnonzero(decided)),
            self._within(
                queries.phash64_trimmed,
                queries.phash256_trimmed,
                np.flatnonzero(decided & bordered),
            ),
        ]
        rows, places, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if only is not None or ignore is not None:
            own = self._own(only or ignore or ())[rows] == self.table.references[places]
            keep = own if only is not None else ~own
            rows, places, distance = rows[keep], places[keep], distance[keep]
        order = np.lexsort((places, distance, rows))
        _, first = np.unique(rows[order], return_index=True)
        matches: list[Match | None] = [None] * count
        for best in order[first]:
            matches[int(rows[best])] = self.table.match(places[best], distance[best])
        return matches

    def _own(self, names: Sequence[str]) -> np.ndarray:
        """Place of each name in the table's, -1 for others, int64."""
        place_of = {name: place for place, name in enumerate(self.table.names)}
        return np.array([place_of.get(name, -1) for name in names], np.int64)

    def _within(
        self, phash64: np.ndarray, phash256: np.ndarray, asked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, place in the table, 256-bit distance) of every confirmed candidate."""
        queries, places = self._index.within(phash64[asked], self._config.radius)
        rows = asked[queries]
        distance = distances(phash256[rows], self.table.phash256[places])
        near = distance <= self._config.confirm
        return rows[near], places[near], distance[near]


def built_file(directory: str, name: str) -> str:
    """URL of a file of a finished index, whose bytes are those that the marker vouches for.

    Raises:
        FileNotFoundError: if the index or the file is not there.
        ValueError: if it holds something else.
    """
    url = join(directory, name)
    expected = ledger.require_success(directory).details["files"][name]
    if file_sha256(url) != expected:
        raise _changed(url)
    return url


def file_sha256(url: str) -> str:
    """SHA-256 of a file in hex, read in pieces: pictures of all references are 400 MB.

    Raises:
        FileNotFoundError: if it is not there.
    """
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _changed(url: str) -> ValueError:
    return ValueError(
        f"{url} is not what was built (its SHA-256 differs); delete the directory and build the "
        "index again"
    )


def read_table(directory: str) -> HashTable:
    """The hash table of a finished index directory, as it was built (`built_file`)."""
    url = built_file(directory, HASHES_FILE)
    batches = parquet.read_batches(url, rows=65536)
    return HashTable.of(pa.Table.from_batches(batches, parquet.read_schema(url)))


def load_index(directory: str, content: str, config: DedupeConfig) -> ReferenceIndex:
    """Load a finished index, once per process and content.

    The search structure is built from the table of hashes, which takes about a second a million
    rows, so that no file of a foreign format is ever deserialised.

    Args:
        directory: of the dataset `coco_hash_index`.
        content: `Finished.content` that the directory must have.
        config: the radii of the search.

    Raises:
        ValueError: if the table is not the one that the marker vouches for.
    """
    with _LOADING:
        return _load_index(directory, content, config)


@functools.lru_cache(maxsize=1)
def _load_index(directory: str, content: str, config: DedupeConfig) -> ReferenceIndex:
    if ledger.require_success(directory).content != content:
        raise _changed(join(directory, HASHES_FILE))
    return ReferenceIndex(read_table(directory), config)
