"""The work of one Beam element of the reference index: a few hundred images to their hashes."""

import contextlib
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import parquet, schemas, storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import exhibit
from pipelines.curate.decoder import Decoder
from pipelines.curate.images import stacked
from pipelines.curate.measure import hashed_greys, hashed_picture
from pipelines.curate.wire import Pictured, Refused
from pipelines.dedupe import hashes, search, variants
from pipelines.dedupe.attacks import ATTACKS
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.references import Reference, ReferenceSource, read_references
from pipelines.layout import join

INDEXED = "indexed"
LOW_INFORMATION = "low_information"
UNCHANGED = "unchanged"

REFERENCES = pa.schema(
    [
        pa.field("reference", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32)),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("contrast", pa.float32()),
        pa.field("undecided_bits", pa.int16()),
        pa.field("picture", pa.binary()),
        pa.field("stamp", pa.string()),
    ]
)
QUERIES = pa.schema(
    [
        pa.field("reference", pa.string(), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        *(schemas.CURATED_PAIRS.field(name) for name in search.Queries._fields),
    ]
)


class Work(NamedTuple):
    """What is to be done with one reference.

    Attributes:
        reference: where it is.
        sha256: of the bytes whose hashes are known already.
        indexed: whether its hashes are wanted.
        attacks: names of the attacks whose results are to be hashed as queries.
    """

    reference: Reference
    sha256: bytes | None
    indexed: bool
    attacks: tuple[str, ...]


class Tables(NamedTuple):
    """Rows in the schemas of `coco_hash_index`, `REFERENCES` and `QUERIES`."""

    hashes: pa.Table
    references: pa.Table
    queries: pa.Table


SCHEMAS = Tables(schemas.COCO_HASH_INDEX, REFERENCES, QUERIES)


def hash_task(
    key: str, works: Sequence[Work], source: ReferenceSource, config: DedupeConfig, directory: str
) -> None:
    """Hash the images and write `<table>/<key>.parquet`, that of the references last."""
    if storage.exists(_file(directory, "references", key)):
        return
    found = {work.reference: work for work in works}
    # Like the bytes of a crawl, those of references may be anything.
    with contextlib.closing(Decoder(CurateConfig())) as decoder:
        task = _Task(config, decoder)
        for reference, data, problem in read_references([*found], source):
            task.add(found[reference], data, problem)
    rows = task.tables()
    for name in ("hashes", "queries", "references"):
        batches, schema = getattr(rows, name).to_batches(), getattr(SCHEMAS, name)
        parquet.write(_file(directory, name, key), batches, schema)


def read_tasks(directory: str, keys: Sequence[str]) -> Tables:
    """What `hash_task` wrote for these keys."""
    return Tables(
        *(
            _read([_file(directory, name, key) for key in keys], schema)
            for name, schema in zip(Tables._fields, SCHEMAS, strict=True)
        )
    )


def queries_of(images: Sequence[Image.Image]) -> search.Queries:
    """Hash decoded images as curation does, at the size that it stores."""
    side = CurateConfig().short_side
    found = [hashed_greys(hashed_picture(image, side)) for image in images]
    grey32 = stacked([greys.grey32 for greys in found], 32)
    return search.Queries(
        hashes.hash_pixels(grey32, 8),
        hashes.hash_pixels(stacked([greys.grey64 for greys in found], 64), 16),
        hashes.hash_pixels(stacked([greys.trimmed32 for greys in found], 32), 8),
        hashes.hash_pixels(stacked([greys.trimmed64 for greys in found], 64), 16),
        hashes.contrast(grey32),
    )


class _Task:
    """Collects the rows of one task."""

    def __init__(self, config: DedupeConfig, decoder: Decoder):
        self._config = config
        self._decoder = decoder
        self._hashes: list[pa.RecordBatch] = []
        self._references: list[dict[str, object]] = []
        self._queries: list[pa.RecordBatch] = []

    def add(self, work: Work, data: bytes | None, problem: str | None) -> None:
        """Take one image, or why there is none."""
        row: dict[str, object] = {"reference": work.reference.name, "stamp": work.reference.stamp}
        self._references.append(row)
        if data is None and work.sha256 is not None:
            row["outcome"] = UNCHANGED  # what was fetched once may be gone
            return
        if data is None:
            # Without a stamp the next build tries again.
            row |= {"outcome": problem, "stamp": None}
            return
        row["sha256"] = hashlib.sha256(data).digest()
        known = row["sha256"] == work.sha256
        if known and not work.attacks:
            row["outcome"] = UNCHANGED
            return
        found = self._decoder.picture(data)
        if isinstance(found, Refused):
            row["outcome"] = str(found.reason)
            return
        row["outcome"] = UNCHANGED if known else self._index(work, found, row)
        contrast = hashes.contrast(hashes.grey_pixels([found.image], 8))[0]
        if contrast >= self._config.min_contrast:
            for attack in work.attacks:
                self._attack(work.reference.name, attack, found.image)

    def tables(self) -> Tables:
        """All rows that were collected."""
        return Tables(
            pa.Table.from_batches(self._hashes, schemas.COCO_HASH_INDEX),
            pa.Table.from_pylist(self._references, REFERENCES),
            pa.Table.from_batches(self._queries, QUERIES),
        )

    def _index(self, work: Work, found: Pictured, row: dict[str, object]) -> str:
        """Hash the variants of one reference; its outcome."""
        grey = found.image.convert("L")
        parts = variants.crops(grey, self._config.crops, self._config.cuts)
        grey32, grey64 = (hashes.grey_pixels([*parts.values()], size) for size in (8, 16))
        contrast = hashes.contrast(grey32)
        row |= {
            "width": found.width,
            "height": found.height,
            "contrast": contrast[0],
            "undecided_bits": hashes.undecided_bits(grey32[:1], 8)[0],
            "picture": exhibit(found.image),
        }
        if contrast[0] < self._config.min_contrast:
            return LOW_INFORMATION
        if work.indexed:
            # The crop of a picture may be flat though the picture is not.
            clear = np.flatnonzero(contrast >= self._config.min_contrast)
            names = [[*parts][place] for place in clear]
            rows = hash_rows(work.reference.name, names, grey32[clear], grey64[clear])
            self._hashes.append(rows)
        return INDEXED

    def _attack(self, reference: str, attack: str, image: Image.Image) -> None:
        found = queries_of([ATTACKS[attack](image)])
        columns = [hashes.packed(column) for column in found[:-1]]
        arrays = [pa.array([reference]), pa.array([attack]), *columns, pa.array(found.contrast)]
        self._queries.append(pa.RecordBatch.from_arrays(arrays, schema=QUERIES))


def hash_rows(
    reference: str, parts: Sequence[str], grey32: np.ndarray, grey64: np.ndarray
) -> pa.RecordBatch:
    """The plain hashes of one reference's parts, then the mirrored ones.

    Args:
        reference: its name.
        parts: names of its P parts.
        grey32: uint8 [P, 32, 32].
        grey64: uint8 [P, 64, 64].
    """
    names = [*parts, *(part + variants.MIRROR_SUFFIX for part in parts)]
    phash64, phash256 = (
        np.concatenate([hashes.hash_pixels(grey, size, mirrored=m) for m in (False, True)])
        for grey, size in ((grey32, 8), (grey64, 16))
    )
    arrays = [
        pa.array([reference] * len(names), pa.string()),
        pa.array(names, pa.string()),
        hashes.packed(phash64),
        hashes.packed(phash256),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.COCO_HASH_INDEX)


def _file(directory: str, table: str, key: str) -> str:
    return join(directory, table, f"{key}.parquet")


def _read(urls: Sequence[str], schema: pa.Schema) -> pa.Table:
    batches = [batch for url in urls for batch in parquet.read_batches(url, rows=65536)]
    return pa.Table.from_batches([b.cast(schema) for b in batches], schema)
