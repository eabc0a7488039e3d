"""Embeddings of the reference index's pictures, made once for a model and shared by all batches."""

import functools
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipelines import code_versions, ledger, parquet, storage
from pipelines.dedupe import reference_index
from pipelines.dedupe.embedding_schema import DATASET
from pipelines.dedupe.reference_merge import REFERENCES_FILE
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel

# Decoded pictures that are in memory together, and in one call of the encoder.
BATCH_ROWS = 64
_REFERENCES = "_references"
_COLUMNS = ["reference", "vector"]
_LOADING = threading.Lock()


class ImageEncoder(Protocol):
    """A loaded model."""

    def __call__(self, images: Sequence[Image.Image], /) -> np.ndarray:
        """Unit vectors of N pictures, float32 [N, E]."""


@dataclass(frozen=True)
class Encoder:
    """The model of a run.

    Attributes:
        load: loads it, once per worker; must be picklable.
        model: which one exactly; stored with the columns.
    """

    load: Callable[[], ImageEncoder]
    model: str


def embed_references(layout: Layout, encoder: Encoder) -> str:
    """Write the embeddings of the index's pictures, unless they are there; their directory."""
    index = layout.dataset(reference_index.DATASET)
    built = ledger.require_success(index)
    fingerprint = ledger.fingerprint(
        code_versions.EMBEDDING_OVERLAP, encoder.model, [built.content]
    )
    directory = join(layout.dataset(DATASET), _REFERENCES, fingerprint)
    done = ledger.read_success(directory)
    if done is not None and ledger.is_whole(directory, done):
        return directory
    found = _reference_embeddings(join(index, REFERENCES_FILE), encoder.load())
    first = next(found, None)
    if first is None:
        raise FileNotFoundError(f"{index} holds no reference picture; build it again")
    url = join(directory, "embeddings.parquet")
    written = parquet.write(url, _chained(first, found), first.schema)
    funnel = Funnel(written.rows, written.rows)
    finished = Finished(
        DATASET, fingerprint, written.sha256[:32], written.rows, written.bytes, funnel
    )
    ledger.write_success(directory, finished)
    return directory


def _reference_embeddings(url: str, encode: ImageEncoder) -> Iterator[pa.RecordBatch]:
    for batch in parquet.read_batches(url, columns=["reference", "picture"], rows=BATCH_ROWS):
        rows = batch.filter(pc.is_valid(batch.column("picture")))
        if not rows.num_rows:
            continue
        vectors = encoded(encode, rows.column("picture").to_pylist())
        values = pa.array(vectors.ravel(), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        yield pa.RecordBatch.from_arrays([rows.column("reference"), column], _COLUMNS)


def _chained(first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others


def encoded(encode: ImageEncoder, pictures: Sequence[bytes]) -> np.ndarray:
    """Encode stored pictures: float32 [N, E].

    Raises:
        ValueError: if the encoder gives something else.
    """
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    found = np.ascontiguousarray(encode(images), np.float32)
    if found.ndim != 2 or len(found) != len(images):
        raise ValueError(f"{len(images)} pictures, but embeddings of shape {found.shape}")
    return found


class References(NamedTuple):
    """Names of the references, and a faiss index of their embeddings."""

    names: list[str]
    index: Any


def load_references(directory: str, content: str) -> References:
    """Load finished embeddings, once per process and content.

    Args:
        directory: that `embed_references` returned.
        content: `Finished.content` that it must have.

    Raises:
        ValueError: if it has another.
    """
    with _LOADING:
        return _loaded(directory, content)


@functools.lru_cache(maxsize=1)
def _loaded(directory: str, content: str) -> References:
    import faiss

    # Workers share the cores already; faiss must not start threads of its own.
    faiss.omp_set_num_threads(1)
    if ledger.require_parts(directory).content != content:
        raise ValueError(f"{directory} has changed since this run began; launch it again")
    names: list[str] = []
    index = None
    for url in storage.list_files(directory, ".parquet"):
        for batch in parquet.read_batches(url):
            column = batch.column("vector")
            vectors = column.flatten().to_numpy().reshape(batch.num_rows, -1)
            index = index or faiss.IndexFlatIP(vectors.shape[1])
            index.add(np.ascontiguousarray(vectors))
            names += batch.column("reference").to_pylist()
    return References(names, index)
