"""The data contract: one pyarrow schema per dataset, with a doc string per column.

Documentation, Dagster column schemas and the blocking contract checks are generated from
this module; every reader and writer takes its columns from here.
"""

from enum import StrEnum

import pyarrow as pa

CONTRACT_VERSION = "1"

UID_BYTES = 16

# In a batch of `deduped_pairs`, beside its parts: the references that its pairs copy.
OVERLAP_FILE = "_overlap/overlapping_references.parquet"


class Stage(StrEnum):
    """The stages in the order of the data flow (which is also alphabetical)."""

    CRAWL = "crawl"
    CURATE = "curate"
    DEDUPE = "dedupe"
    ENCODE = "encode"
    PUBLISH = "publish"
    TRAIN = "train"
    VALIDATE = "validate"


def _column(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _dataset(name: str, row: str, *columns: pa.Field, **metadata: str) -> pa.Schema:
    head = {"dataset": name, "row": row, "contract_version": CONTRACT_VERSION}
    return pa.schema(columns, metadata=head | metadata)


_UID = _column(
    "uid",
    pa.binary(UID_BYTES),
    "first 16 bytes of SHA-256 over (normalised URL, NUL, normalised caption)",
)
_TIME = pa.timestamp("us", tz="UTC")

IMAGE_TEXT_CANDIDATES = _dataset(
    "image_text_candidates",
    "a (url, caption) found",
    _UID,
    _column("url", pa.string(), "normalised URL of the image"),
    _column("page_url", pa.string(), "page that shows the image", nullable=True),
    _column("caption_raw", pa.string(), "the text as found, entities decoded"),
    _column("source", pa.string(), "name of the source, as configured for the batch"),
    _column("snapshot", pa.string(), "crawl snapshot or list version", nullable=True),
    _column("found_at", _TIME, "when the candidate was read"),
)

FETCHED_PAIRS = _dataset(
    "fetched_pairs",
    "a candidate tried; a URL with several captions is fetched once",
    _UID,
    _column("url", pa.string(), "normalised URL of the image"),
    _column("caption_raw", pa.string(), "the text as found, entities decoded"),
    _column("outcome", pa.string(), "`ok`, or the one enumerated reason that ended the fetch"),
    _column("detail", pa.string(), "the error's own words", nullable=True),
    _column("http_status", pa.int16(), "status of the last response", nullable=True),
    _column("mime", pa.string(), "type found in the first bytes", nullable=True),
    _column("bytes", pa.int64(), "length of the body in bytes", nullable=True),
    _column("fetched_at", _TIME, "when the exchange ended"),
    _column("attempts", pa.int16(), "requests made for this URL"),
    _column("retryable", pa.bool_(), "whether another try makes sense"),
    _column("opt_out_signal", pa.string(), "which signal forbade the use", nullable=True),
    _column("opt_out_text", pa.string(), "the signal's own text", nullable=True),
    _column("image", pa.binary(), "original bytes, null unless outcome is `ok`", nullable=True),
    _column("image_sha256", pa.binary(32), "SHA-256 of the original bytes", nullable=True),
)

_CURATED_COLUMNS = (
    _UID,
    _column("url", pa.string(), "normalised URL of the image"),
    _column("caption", pa.string(), "caption after normalisation"),
    _column("caption_raw", pa.string(), "the text as found, entities decoded"),
    _column("lang", pa.string(), "language found, ISO 639 code"),
    _column("lang_score", pa.float32(), "the detector's probability, 0 to 1"),
    _column("width", pa.int32(), "width of the original in pixels"),
    _column("height", pa.int32(), "height of the original in pixels"),
    _column("aspect", pa.float32(), "width divided by height"),
    _column("image", pa.binary(), "re-encoded image, its short side as the configuration says"),
    _column("image_sha256", pa.binary(32), "SHA-256 of the original bytes"),
    _column(
        "phash64",
        pa.binary(8),
        "64-bit perceptual hash of the stored picture before its encoding (of the working size "
        "where less than 256 pixels are stored)",
    ),
    _column("phash256", pa.binary(32), "256-bit perceptual hash of the same"),
    _column("phash64_trimmed", pa.binary(8), "as phash64, after a plain border is cut off"),
    _column("phash256_trimmed", pa.binary(32), "as phash256, after a plain border is cut off"),
    _column("contrast", pa.float32(), "standard deviation of 32x32 grey levels, 0 to 127.5"),
)

CURATED_PAIRS = _dataset("curated_pairs", "a kept pair", *_CURATED_COLUMNS)

DEDUPED_PAIRS = _dataset(
    "deduped_pairs",
    "a kept pair",
    *_CURATED_COLUMNS,
    _column("dup_of", pa.string(), "reference image it copies; not in mode `drop`", nullable=True),
    _column("dup_distance", pa.int16(), "256-bit Hamming distance to `dup_of`", nullable=True),
)

REJECTS = _dataset(
    "rejects",
    "one dropped row, of any stage",
    _UID,
    _column("url", pa.string(), "normalised URL of the image", nullable=True),
    _column("caption_raw", pa.string(), "the text as found", nullable=True),
    _column("stage", pa.string(), "stage that dropped the row"),
    _column("reason", pa.string(), "one enumerated word"),
    _column("detail", pa.string(), "what exactly was found", nullable=True),
    _column("retryable", pa.bool_(), "whether another try makes sense"),
    _column("image", pa.binary(), "small picture for the exhibits", nullable=True),
)

COCO_HASH_INDEX = _dataset(
    "coco_hash_index",
    "one hash variant of one reference image",
    _column("reference", pa.string(), "name of the reference image"),
    _column("variant", pa.string(), "full, centre, crop_3 ... and their mirrored twins"),
    _column("phash64", pa.binary(8), "64-bit perceptual hash of the variant"),
    _column("phash256", pa.binary(32), "256-bit perceptual hash of the variant"),
)


def token_grids(grid: int) -> pa.Schema:
    """Schema of token rows for a `grid` x `grid` image code.

    Args:
        grid: codes along one side (32 in arXiv 2102.12092, section 2).

    Raises:
        ValueError: if `grid` is not positive.
    """
    if grid < 1:
        raise ValueError(f"grid must be at least 1, got {grid}")
    codes = pa.list_(pa.field("element", pa.uint16(), nullable=False), grid * grid)
    return _dataset(
        "token_grids",
        "a pair and one crop",
        _UID,
        _column("crop_id", pa.uint8(), "which deterministic crop, seeded by uid and this number"),
        _column("caption", pa.string(), "the caption, so that BPE dropout is drawn at load"),
        _column(
            "text_tokens",
            pa.list_(pa.field("element", pa.uint16(), nullable=False)),
            "canonical BPE ids, without padding",
        ),
        _column("text_length", pa.int16(), "number of BPE ids kept"),
        _column("text_truncated", pa.bool_(), "whether ids beyond the limit were cut"),
        _column("image_tokens", codes, "dVAE codes, row-major"),
        grid=str(grid),
    )


TOKEN_METADATA = _dataset(
    "token_metadata",
    "what other teams filter by, in the row order of the token table",
    _UID,
    _column("crop_id", pa.uint8(), "as in the token table"),
    *(field for field in _CURATED_COLUMNS if field.name not in ("uid", "image")),
    _column("crawl_batch", pa.string(), "batch that found the pair"),
)

DATASETS: dict[str, pa.Schema] = {
    schema.metadata[b"dataset"].decode(): schema
    for schema in (
        IMAGE_TEXT_CANDIDATES,
        FETCHED_PAIRS,
        CURATED_PAIRS,
        COCO_HASH_INDEX,
        DEDUPED_PAIRS,
        REJECTS,
        token_grids(32),
        TOKEN_METADATA,
    )
}


def describe(schema: pa.Schema) -> dict[str, str]:
    """Column name to doc string, in order."""
    return {field.name: (field.metadata or {}).get(b"doc", b"").decode() for field in schema}


def violations(expected: pa.Schema, found: pa.Schema) -> list[str]:
    """What in `found` breaks the contract `expected`; empty if nothing does.

    Column order, types and nullability count. Extra metadata does not: writers add
    provenance to it.
    """
    problems = [f"missing column {name!r}" for name in expected.names if name not in found.names]
    problems += [f"unknown column {name!r}" for name in found.names if name not in expected.names]
    for field in expected:
        if field.name not in found.names:
            continue
        other = found.field(field.name)
        if not other.type.equals(field.type):
            problems.append(
                f"column {field.name!r} is {other.type}, the contract says {field.type}"
            )
        if other.nullable and not field.nullable:
            problems.append(f"column {field.name!r} may hold nulls, the contract says it may not")
    if not problems and found.names != expected.names:
        problems.append(f"columns are ordered {found.names}, the contract says {expected.names}")
    return problems
