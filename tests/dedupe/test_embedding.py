"""The second opinion, with an encoder that needs no training: small pictures are the vectors."""

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, read_all, row
from PIL import Image

from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig, Mode
from pipelines.dedupe.embedding import find_overlap
from pipelines.dedupe.embedding_nearest import nearest_pairs
from pipelines.dedupe.embedding_references import Encoder, ImageEncoder, embed_references
from pipelines.dedupe.embedding_schema import overlap_schema
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.schemas import violations

REFERENCES = ("sailboat", "cactus", "pizza", "snail")
CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
# Copies stay, so that they are found again.
DEDUPE = DedupeConfig(mode=Mode.REPORT, measured_references=0, near_repeats=False)


def load(side: int) -> ImageEncoder:
    def encode(images: Sequence[Image.Image]) -> np.ndarray:
        small = [np.asarray(i.resize((side, side)), np.float32).ravel() - 230 for i in images]
        vectors = np.stack(small)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


# Below every copy, and below some other pairs too.
THRESHOLD = 0.6
ENCODER = Encoder(functools.partial(load, 16), "pixels 16")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    root = tmp_path_factory.mktemp("embedding")
    (root / "references").mkdir()
    for name in REFERENCES:
        (root / "references" / f"{name}.png").write_bytes(artwork()[name])
    names = [name for name in sorted(artwork()) if name not in REFERENCES][::60]
    rows = [row(i, f"{name} as an emoji", artwork()[name]) for i, name in enumerate(names)]
    for name in REFERENCES:
        copy = encoded(on_white(artwork()[name]), "JPEG", quality=80)
        rows.append(row(len(rows), f"a {name} that was changed", copy))
    found = Layout(str(root / "data"))
    fetched_pairs(found, "a", rows[::2], rows[1::2])
    curate_pairs("a", found, CURATE, Engine())
    build_index(str(root / "references"), found, DEDUPE)
    dedupe_pairs("a", found, DEDUPE, Engine())
    return found


@pytest.fixture(scope="module")
def done(layout: Layout) -> Finished:
    return find_overlap("a", layout, ENCODER, THRESHOLD, Engine())


def test_every_pair_has_its_nearest_reference_and_copies_are_flagged(
    layout: Layout, done: Finished
) -> None:
    pairs = read_all(layout.dataset("deduped_pairs", "a"))
    found = read_all(layout.dataset("embedding_overlap", "a"))
    assert violations(overlap_schema(), found.schema) == []
    assert (found.schema.metadata or {})[b"model"] == b"pixels 16"
    assert found.column("uid").to_pylist() == pairs.column("uid").to_pylist()
    copied = 0
    for caption, near in zip(pairs.column("caption").to_pylist(), found.to_pylist(), strict=True):
        assert near["flagged"] == (near["similarity"] >= THRESHOLD)
        if caption.endswith("that was changed"):
            assert near["reference"] == f"{caption.split()[1]}.png"
            assert near["flagged"]
            copied += 1
    assert copied == len(REFERENCES) < pairs.num_rows
    assert done.details["flagged"] == sum(found.column("flagged").to_pylist())
    assert len(REFERENCES) < done.details["flagged"] < pairs.num_rows
    similarity = found.column("similarity").to_pylist()
    assert done.details["above"]["0.8"] == sum(value >= 0.8 for value in similarity)
    assert (done.rows, done.funnel.kept) == (pairs.num_rows, pairs.num_rows)


def test_the_nearest_is_the_exact_one(layout: Layout, done: Finished) -> None:
    encode = ENCODER.load()
    table = read_all(embed_references(layout, ENCODER))
    names = table.column("reference").to_pylist()
    vectors = np.array(table.column("vector").to_pylist(), np.float32)
    pairs = read_all(layout.dataset("deduped_pairs", "a")).column("image").to_pylist()
    images = [Image.open(io.BytesIO(data)) for data in pairs]
    similarity = encode([i.convert("RGB") for i in images]) @ vectors.T
    found = read_all(layout.dataset("embedding_overlap", "a"))
    assert found.column("reference").to_pylist() == [names[i] for i in similarity.argmax(axis=1)]
    assert found.column("similarity").to_pylist() == pytest.approx(similarity.max(1), abs=1e-5)


def test_the_sheet_begins_with_the_nearest(layout: Layout, done: Finished) -> None:
    near = nearest_pairs(
        layout.dataset("embedding_overlap", "a"),
        layout.dataset("deduped_pairs", "a"),
        layout.dataset("coco_hash_index"),
        6,
    )
    similarities = [pair.similarity for pair in near]
    assert similarities == sorted(similarities, reverse=True)
    assert {pair.caption.split()[1] for pair in near[:4]} == set(REFERENCES)
    assert all(pair.original and pair.picture for pair in near)


def test_nothing_is_done_twice_and_all_is_done_again_for_another_model(
    layout: Layout, done: Finished
) -> None:
    def broken() -> ImageEncoder:
        raise AssertionError("loaded again")

    same = Encoder(broken, ENCODER.model)
    assert find_overlap("a", layout, same, THRESHOLD, Engine()) == done
    other = Encoder(functools.partial(load, 8), "pixels 8")
    assert find_overlap("a", layout, other, THRESHOLD, Engine()).content != done.content
    assert find_overlap("a", layout, ENCODER, THRESHOLD, Engine()) == done


def test_what_makes_no_sense_is_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"threshold is a cosine from -1 to 1, got 95"):
        find_overlap("a", layout, ENCODER, 95, Engine())
    with pytest.raises(FileNotFoundError, match="is not finished"):
        find_overlap("b", layout, ENCODER, THRESHOLD, Engine())
    wrong = Encoder(lambda: lambda images: np.zeros(3, np.float32), "wrong")
    with pytest.raises(ValueError, match="but embeddings of shape"):
        find_overlap("a", layout, wrong, THRESHOLD, Engine())
