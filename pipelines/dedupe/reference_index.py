"""Build `coco_hash_index` from a folder of reference images, and measure what it catches."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import imagehash
import numpy as np
import PIL
import pyarrow as pa
from PIL import Image

from pipelines import ledger, parquet, schemas, storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, decode
from pipelines.dedupe import hashes, search, variants
from pipelines.dedupe.attacks import ATTACKS, upper_bound
from pipelines.dedupe.config import DedupeConfig
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel

CODE_VERSION = "1"
DATASET = "coco_hash_index"
LOW_INFORMATION = "low_information"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
# References whose crops are in memory together.
_BATCH = 64
log = logging.getLogger(__name__)


def build_index(images: str, layout: Layout, config: DedupeConfig) -> Finished:
    """Write the hash table and the faiss index of every image below a folder.

    MS-COCO's own layout (`val2014/*.jpg`, `train2014/*.jpg` ...) is a folder like any other:
    a reference is named by its path below `images`. Images that cannot be decoded or that hold
    too little information are counted in the funnel, not indexed.

    Args:
        images: directory or fsspec URL.
        layout: where the index goes.
        config: the recipe.

    Returns:
        The marker; its details hold the files' SHA-256, `measured` (see `measure_index`) and
        `undecided`: references of which re-encoded copies may be missed, because noise of one
        grey level may flip more bits than `radius` (pictures symmetric left to right).

    Raises:
        FileNotFoundError: if there is no image below `images`.
    """
    files = _image_files(images)
    if not files:
        raise FileNotFoundError(
            f"no image ({', '.join(_SUFFIXES)}) below {images}; give the folder of the reference "
            "images, for MS-COCO the one that holds val2014/"
        )
    output = layout.dataset(DATASET)
    digests = [
        f"{name} {hashlib.sha256(storage.read_bytes(url)).hexdigest()}" for name, url in files
    ]
    # What becomes of a copy that is found does not change the index.
    recipe = dataclasses.replace(config, mode="drop")
    fingerprint = ledger.fingerprint(CODE_VERSION, recipe, digests)
    done = ledger.read_success(output)
    if done is not None and done.fingerprint == fingerprint:
        log.info("%s is up to date", output)
        return done

    storage.remove(join(output, ledger.SUCCESS))
    builder = _Builder(config)
    written = parquet.write(
        join(output, search.HASHES_FILE), builder.rows(files), _schema(config, fingerprint)
    )
    table = search.read_table(output)
    faiss_index = search.build_faiss(table.phash64)
    sha256 = {
        search.HASHES_FILE: written.sha256,
        search.INDEX_FILE: search.write_faiss(join(output, search.INDEX_FILE), faiss_index),
    }
    index = search.ReferenceIndex(table, config, faiss_index)
    finished = Finished(
        dataset=DATASET,
        fingerprint=fingerprint,
        content=ledger.content_hash(sha256),
        rows=written.rows,
        bytes=written.bytes,
        funnel=Funnel(len(files), builder.indexed, dict(sorted(builder.dropped.items()))),
        details={
            "files": sha256,
            "images": images,
            "crops": list(config.crops),
            "undecided": builder.undecided,
            "measured": measure_index(index, files, config),
        },
    )
    ledger.write_success(output, finished)
    return finished


def measure_index(
    index: search.ReferenceIndex, files: list[tuple[str, str]], config: DedupeConfig
) -> dict[str, Any]:
    """Attack a sample of the references and ask the index for each result.

    Returns:
        `references`: how many were attacked. `recall`: per attack, `tried` and `caught` (the
        right reference was found). `false_flags`: references asked for without their own
        hashes, `tried`, `flagged` (as a copy of another) and `upper_95` (bound of the rate; two
        references that are copies of each other count, too).
    """
    sample = sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest())
    decoded: list[tuple[str, Image.Image]] = []
    for name, url in sample:
        if len(decoded) == config.measured_references:
            break
        image = _load(url)
        if image is not None and _contrast(image) >= config.min_contrast:
            decoded.append((name, image))
    names = [name for name, _ in decoded]
    recall = {}
    for attack, change in ATTACKS.items():
        matches = index.match(queries_of([change(image) for _, image in decoded]))
        caught = sum(
            m is not None and m.reference == n for n, m in zip(names, matches, strict=True)
        )
        recall[attack] = {"tried": len(names), "caught": caught}
    others = index.match(queries_of([image for _, image in decoded]), ignore=names)
    flagged = sum(match is not None for match in others)
    return {
        "references": len(names),
        "recall": recall,
        "false_flags": {
            "tried": len(names),
            "flagged": flagged,
            "upper_95": upper_bound(flagged, len(names)),
        },
    }


def queries_of(images: list[Image.Image]) -> search.Queries:
    """Hash decoded images as curation does."""
    trimmed = [variants.trim_border(image) for image in images]
    grey32 = hashes.grey_pixels(images, 8)
    return search.Queries(
        phash64=hashes.hash_pixels(grey32, 8),
        phash256=hashes.phash(images, 16),
        phash64_trimmed=hashes.phash(trimmed, 8),
        phash256_trimmed=hashes.phash(trimmed, 16),
        contrast=hashes.contrast(grey32),
    )


class _Builder:
    """Streams the hash rows of the references and counts what became of each."""

    def __init__(self, config: DedupeConfig):
        self._config = config
        self.indexed = 0
        self.undecided = 0
        self.dropped: dict[str, int] = {}

    def rows(self, files: list[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            parts = [part for name, url in batch for part in self._parts(name, url)]
            if parts:
                yield _hash_rows(parts, self._config)
            log.info("hashed %d of %d references", start + len(batch), len(files))

    def _parts(self, name: str, url: str) -> list[tuple[str, str, Image.Image]]:
        image = _load(url)
        if image is None:
            self._drop("damaged_image")
            return []
        pixels = hashes.grey_pixels([image], 8)
        if hashes.contrast(pixels)[0] < self._config.min_contrast:
            self._drop(LOW_INFORMATION)
            return []
        self.indexed += 1
        self.undecided += int(hashes.undecided_bits(pixels, 8)[0] > self._config.radius)
        parts = variants.crops(image, self._config.crops).items()
        return [(name, variant, part) for variant, part in parts]

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _hash_rows(parts: list[tuple[str, str, Image.Image]], config: DedupeConfig) -> pa.RecordBatch:
    """The plain and mirrored hashes of (reference, variant, picture), plain ones first."""
    pictures = [picture for *_, picture in parts]
    grey32, grey64 = hashes.grey_pixels(pictures, 8), hashes.grey_pixels(pictures, 16)
    # The crop of a picture may be flat though the picture is not.
    clear = np.flatnonzero(hashes.contrast(grey32) >= config.min_contrast)
    grey32, grey64 = grey32[clear], grey64[clear]
    names = [parts[i][0] for i in clear]
    plain = [parts[i][1] for i in clear]
    mirrored = [variant + variants.MIRROR_SUFFIX for variant in plain]
    both = (False, True)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(names * 2, pa.string()),
            pa.array(plain + mirrored, pa.string()),
            hashes.packed(
                np.concatenate([hashes.hash_pixels(grey32, 8, mirrored=m) for m in both])
            ),
            hashes.packed(
                np.concatenate([hashes.hash_pixels(grey64, 16, mirrored=m) for m in both])
            ),
        ],
        schema=schemas.COCO_HASH_INDEX,
    )


def _image_files(images: str) -> list[tuple[str, str]]:
    """(path below the folder, URL) of every image, sorted by path."""
    fs, root = storage.filesystem(images)
    if not fs.isdir(root):
        return []
    found = sorted(p for p in fs.find(root) if p.lower().endswith(_SUFFIXES))
    return [(path[len(root) :].lstrip("/"), fs.unstrip_protocol(path)) for path in found]


def _load(url: str) -> Image.Image | None:
    limits = CurateConfig()
    try:
        return decode(storage.read_bytes(url), formats=limits.formats, max_pixels=limits.max_pixels)
    except DecodeError as error:
        log.warning("reference %s: %s", url, error)
        return None


def _contrast(image: Image.Image) -> float:
    return float(hashes.contrast(hashes.grey_pixels([image], 8))[0])


def _schema(config: DedupeConfig, fingerprint: str) -> pa.Schema:
    provenance = {
        "config_hash": fingerprint,
        "code_version": CODE_VERSION,
        "hash_algorithm": f"imagehash.phash, imagehash {imagehash.__version__}",
        "pillow": PIL.__version__,
        "crops": ",".join(map(str, config.crops)),
    }
    schema = schemas.COCO_HASH_INDEX
    return schema.with_metadata(dict(schema.metadata or {}) | provenance)
