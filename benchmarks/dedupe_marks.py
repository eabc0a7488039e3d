"""Search among all variants of MS-COCO's 164,000 images, beside decoding and beside faiss.

`python -m benchmarks.dedupe_marks` prints recall against brute force, CPU time a picture, the time
to load the index, what they are of the time from bytes to crop, and what is read of an earlier
batch for the repeats.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.curate_marks import LIMITS, photos
from benchmarks.marks import Mark, compare
from pipelines import ledger, parquet, schemas
from pipelines.curate.images import image_columns
from pipelines.curate.measure import measure
from pipelines.dedupe import hashes, search, signatures
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.kept_signatures import read_kept, write_kept
from pipelines.dedupe.multi_index import MultiIndex
from pipelines.dedupe.repeats import RepeatIndex
from pipelines.dedupe.signatures import Signatures
from pipelines.layout import join
from pipelines.ledger import Finished, Funnel

_REFERENCES = 164_000
_PARTS = ("full", "centre", "crop_3", "crop_6", "crop_10")
# Bits of 64 by which a crop's hash differs from that of the full frame, as photographs' do.
_FLIPPED = (0, 14, 4, 8, 12)
_QUERIES = 2048
_COMPARED = 512
_ROUNDS = 3
_MOST_SHARE = 0.1
_BATCH_PAIRS = 100_000
# Pictures of an earlier batch in a later one: with 2,500 batches a quarter of the last are repeats.
_REPEATED = 10
CONFIG = DedupeConfig()


class World(NamedTuple):
    """Hashes of pictures with a photograph's spectrum, and pictures to ask for."""

    table: search.HashTable
    queries: search.Queries


@functools.cache
def world() -> World:
    """1.64 million rows; half of the queries copy a reference, all have a border to be trimmed."""
    rng = np.random.default_rng(0)
    plain, mirrored = zip(
        *(_base_hashes(rng, 2000) for _ in range(_REFERENCES // 2000)), strict=True
    )
    both = [np.concatenate(plain), np.concatenate(mirrored)]
    phash64 = np.stack([_flipped(b, f, rng) for b in both for f in _FLIPPED], axis=1)
    rows = phash64.reshape(-1, 8)
    phash256 = rng.integers(0, 256, (len(rows), 32), dtype=np.uint8)
    names = [part + twin for twin in ("", "_mirrored") for part in _PARTS]
    variants = pa.DictionaryArray.from_arrays(
        pa.array(np.tile(np.arange(10, dtype=np.int32), _REFERENCES)), pa.array(names)
    )
    references = np.repeat(np.arange(_REFERENCES, dtype=np.int32), 10)
    table = search.HashTable(
        [f"{n:012d}.jpg" for n in range(_REFERENCES)], references, variants, rows, phash256
    )
    near = rng.integers(0, len(rows), _QUERIES // 2)
    strange = [_base_hashes(rng, _QUERIES // 2)[0] for _ in range(2)]
    asked = [np.concatenate([_flipped(rows[near], 4, rng), other]) for other in strange]
    long = np.concatenate([phash256[near], phash256[:: len(rows) // len(near)][: len(near)]])
    contrast = np.full(_QUERIES, 50, np.float32)
    return World(table, search.Queries(asked[0], long, asked[1], long, contrast))


def hash_step() -> Mark:
    """DCT and median of 2,000 grey pictures beside imagehash's loop over the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 32, 32), dtype=np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    ours, peer = compare(
        lambda: hashes.hash_pixels(pixels, 8),
        lambda: [imagehash.phash(picture) for picture in pictures],
    )
    return Mark("perceptual hash from grey pixels", ours, peer, "imagehash.phash", 8.0)


def search_copies() -> Mark:
    """The search that finds all that brute force finds.

    Raises:
        AssertionError: if it does not.
    """
    exact, found = recall_against_brute_force()
    ours, decode = search_seconds()
    name = f"search in 1.64 M, recall {found / exact:.1f}, share of decode"
    return Mark(name, ours, decode, "decode to crop", 1 / _MOST_SHARE)


def search_seconds() -> tuple[float, float]:
    """CPU seconds a picture of the search, and from its bytes to its crop in the same run."""
    files = photos()
    found = search.ReferenceIndex(world().table, CONFIG)
    ours = _seconds(lambda: found.match(world().queries)) / _QUERIES
    decode = _seconds(lambda: image_columns([measure(f, LIMITS) for f in files])) / len(files)
    return ours, decode


def recall_against_brute_force() -> tuple[int, int]:
    """(pairs that faiss's brute force finds, pairs that the index finds, if the sets are equal).

    Raises:
        AssertionError: if one finds what the other does not, or there is nothing to find.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    asked = world().queries.phash64[-_QUERIES // 2 - _COMPARED // 2 :][:_COMPARED]
    flat = faiss.IndexBinaryFlat(64)
    flat.add(np.ascontiguousarray(world().table.phash64))
    limits, _, places = flat.range_search(np.ascontiguousarray(asked), CONFIG.radius + 1)
    rows = np.arange(len(asked)).repeat((limits[1:] - limits[:-1]).astype(np.int64))
    exact = set(zip(rows.tolist(), places.tolist(), strict=True))
    found = MultiIndex(world().table.phash64).within(asked, CONFIG.radius)
    ours = set(zip(found.queries.tolist(), found.rows.tolist(), strict=True))
    assert ours == exact, f"{len(exact - ours)} pairs are missed, {len(ours - exact)} are wrong"
    assert exact, "the queries copy nothing"
    return len(exact), len(ours)


def seconds_to_load() -> float:
    """CPU seconds to verify and read the index's Parquet file and to build the search from it."""
    table = world().table
    rows = pa.Table.from_arrays(
        [
            pa.DictionaryArray.from_arrays(pa.array(table.references), pa.array(table.names)),
            table.variants,
            hashes.packed(table.phash64),
            hashes.packed(table.phash256),
        ],
        names=schemas.COCO_HASH_INDEX.names,
    ).cast(schemas.COCO_HASH_INDEX)
    with tempfile.TemporaryDirectory() as folder:
        url = join(folder, search.HASHES_FILE)
        written = parquet.write(url, rows.to_batches(), rows.schema, row_group_rows=65536)
        files = {search.HASHES_FILE: written.sha256}
        count = rows.num_rows
        done = Finished("", "", "x", count, written.bytes, Funnel(count, count), {"files": files})
        ledger.write_success(folder, done)
        start = time.process_time()
        search.load_index(folder, "x", CONFIG)
        return time.process_time() - start


def bytes_of_an_earlier_batch() -> tuple[int, int]:
    """(bytes that are read to find a batch's repeats in an earlier one, bytes that this one keeps).

    Raises:
        AssertionError: if not all repeats are found.
    """
    rng = np.random.default_rng(0)
    earlier, later = (_random_signatures(_BATCH_PAIRS, rng) for _ in range(2))
    later.sha256[:_REPEATED] = earlier.sha256[:_REPEATED]
    index = RepeatIndex(later, CONFIG)
    columns = [hashes.packed(c) if c.ndim == 2 else pa.array(c) for c in earlier]
    with tempfile.TemporaryDirectory() as folder:
        write_kept(folder, pa.Table.from_arrays(columns, schema=signatures.SCHEMA))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        before = _bytes_read()
        found = list(read_kept(folder, index.candidates))
        taken = _bytes_read() - before
    assert sum(len(index.same_files(some).later) for some in found) == _REPEATED
    return taken, size


def main() -> None:
    """Measure and print."""
    import faiss

    about = (__doc__ or "").splitlines()[0]
    argparse.ArgumentParser(
        prog="python -m benchmarks.dedupe_marks", description=about
    ).parse_args()

    exact, found = recall_against_brute_force()
    print(f"recall: {found} of {exact} pairs that brute force finds among {_COMPARED} queries")
    faiss.omp_set_num_threads(1)
    asked = np.ascontiguousarray(world().queries.phash64[:_COMPARED])
    flat = faiss.IndexBinaryFlat(64)
    flat.add(np.ascontiguousarray(world().table.phash64))
    index = MultiIndex(world().table.phash64)
    brute = _seconds(lambda: flat.range_search(asked, CONFIG.radius + 1)) / _COMPARED
    own = _seconds(lambda: index.within(asked, CONFIG.radius)) / _COMPARED
    print(f"a query at radius {CONFIG.radius}: {own * 1e6:.0f} us, faiss Flat {brute * 1e6:.0f} us")
    ours, decode = search_seconds()
    print(
        f"a picture (two queries, confirmed): {ours * 1e6:.0f} us, {ours / decode:.1%} of "
        f"{decode * 1e3:.1f} ms from bytes to crop (at most {_MOST_SHARE:.0%})"
    )
    print(f"loading {len(world().table.phash64):,} rows: {seconds_to_load():.1f} CPU seconds")
    taken, size = bytes_of_an_earlier_batch()
    print(
        f"repeats: {taken / 1e6:.1f} MB are read of the {size / 1e6:.1f} MB that an earlier batch "
        f"of {_BATCH_PAIRS:,} keeps"
    )


def _random_signatures(count: int, rng: np.random.Generator) -> Signatures:
    uid, sha256, phash64, phash256, colour = (
        rng.integers(0, 256, (count, width), np.uint8) for width in (16, 32, 8, 32, 48)
    )
    contrast = rng.uniform(5, 90, count).astype(np.float32)
    words = rng.integers(3, 40, count).astype(np.int16)
    sure = rng.uniform(0, 1, count).astype(np.float32)
    return Signatures(uid, sha256, phash64, phash256, colour, contrast, words, sure)


def _bytes_read() -> int:
    """By this process so far, from files."""
    return int(Path(f"/proc/{os.getpid()}/io").read_text().split()[1])


def _base_hashes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and mirrored hashes of pictures of amplitude 1/f, brighter above than below."""
    steps = np.fft.fftfreq(32)
    falling = 1 / np.maximum(np.hypot(steps[:, None], steps), 1 / 32)
    noise = rng.normal(size=(count, 32, 32)) + 1j * rng.normal(size=(count, 32, 32))
    levels = np.fft.ifft2(noise * falling).real
    levels = levels / levels.std(axis=(1, 2), keepdims=True) - np.linspace(-1, 1, 32)[:, None]
    pixels = (128 + 40 * levels).clip(0, 255).astype(np.uint8)
    return hashes.hash_pixels(pixels, 8), hashes.hash_pixels(pixels, 8, mirrored=True)


def _flipped(hashed: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Each hash with up to `count` random bits flipped."""
    bits = np.unpackbits(hashed, axis=1)
    for _ in range(count):
        bits[np.arange(len(bits)), rng.integers(0, 64, len(bits))] ^= 1
    return np.packbits(bits, axis=1)


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return median(taken)


if __name__ == "__main__":
    main()
