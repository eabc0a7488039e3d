from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dedupe import signatures
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.kept_signatures import read_kept, write_kept
from pipelines.dedupe.repeats import RepeatIndex
from pipelines.dedupe.signatures import Signatures

CONFIG = DedupeConfig()
EARLIER, OWN, SHARED = 9000, 500, 40


def random_signatures(count: int, rng: np.random.Generator) -> Signatures:
    uid, sha256, phash64, phash256, colour = (
        rng.integers(0, 256, (count, width), np.uint8) for width in (16, 32, 8, 32, 48)
    )
    contrast = rng.uniform(0, 60, count).astype(np.float32)
    words = rng.integers(0, 40, count).astype(np.int16)
    sure = np.ones(count, np.float32)
    return Signatures(uid, sha256, phash64, phash256, colour, contrast, words, sure)


def table(found: Signatures) -> pa.Table:
    columns = [
        pa.array([row.tobytes() for row in column], kind.type)
        if column.ndim == 2
        else pa.array(column, kind.type)
        for column, kind in zip(found, signatures.SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=signatures.SCHEMA)


def flipped(packed: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    flat = np.unpackbits(packed)
    flat[rng.choice(len(flat), bits, replace=False)] ^= 1
    return np.packbits(flat)


@pytest.fixture
def batches(tmp_path: Path) -> tuple[str, Signatures, Signatures]:
    """Directory and signatures of an earlier batch, and a batch that shares some with it."""
    rng = np.random.default_rng(0)
    earlier, own = random_signatures(EARLIER, rng), random_signatures(OWN, rng)
    for place, source in enumerate(rng.choice(EARLIER, SHARED, replace=False)):
        own.contrast[place] = earlier.contrast[source] = (3.9, 4.0, 40.0)[place % 3]
        if place % 2:
            own.sha256[place] = earlier.sha256[source]
            continue
        # Up to two bits farther than the radius, so that some are out of it.
        own.phash64[place] = flipped(earlier.phash64[source], place % 7, rng)
        own.phash256[place] = flipped(earlier.phash256[source], place % 13, rng)
        own.colour[place] = earlier.colour[source]
    write_kept(str(tmp_path), table(earlier))
    return str(tmp_path), earlier, own


def matches(index: RepeatIndex, others: Signatures) -> set[tuple[bytes, int, int]]:
    return {
        (others.uid[other].tobytes(), int(own), int(distance))
        for pairs in (index.same_files(others), *index.near(others))
        for other, own, distance in zip(*pairs, strict=True)
    }


def test_by_their_keys_the_same_pairs_are_found_as_by_all_signatures(
    batches: tuple[str, Signatures, Signatures],
) -> None:
    directory, earlier, own = batches
    index = RepeatIndex(own, CONFIG)
    expected = matches(index, earlier)
    found = set().union(*(matches(index, some) for some in read_kept(directory, index.candidates)))
    assert found == expected
    assert {distance < 0 for _, _, distance in found} == {True, False}
    assert SHARED // 2 < len(found) < SHARED


def test_only_row_groups_that_may_match_are_read(
    batches: tuple[str, Signatures, Signatures], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _, own = batches
    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def spied(file: pq.ParquetFile, group: int) -> pa.Table:
        read.append(group)
        return real(file, group)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spied)
    groups = pq.read_metadata(f"{directory}/kept.parquet").num_row_groups
    assert groups == 18
    strangers = RepeatIndex(own.take(np.arange(SHARED, OWN)), CONFIG)
    assert list(read_kept(directory, strangers.candidates)) == []
    assert read == []
    (some,) = read_kept(directory, RepeatIndex(own.take(np.array([1])), CONFIG).candidates)
    assert len(read) == 1
    assert some.sha256.tobytes() == own.sha256[1].tobytes()
    keys, kept = (Path(directory, f"{name}.parquet").stat().st_size for name in ("keys", "kept"))
    assert keys < kept / 8


def test_a_batch_without_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dedupe this earlier batch again"):
        list(read_kept(str(tmp_path), lambda keys: np.arange(len(keys.file))))
