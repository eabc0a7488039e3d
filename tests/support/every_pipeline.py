"""Every Beam pipeline of the project, one after the other, on a small served web."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from token_corpus import MeanColour

from pipelines import ledger
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.crawl.candidates import extract_candidates
from pipelines.crawl.config import CandidatesConfig, FetchConfig, HttpConfig
from pipelines.crawl.fetch import fetch_pairs
from pipelines.curate.config import CurateConfig
from pipelines.curate.scores import Score, Scorer, score_pairs
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.embedding import find_overlap
from pipelines.dedupe.embedding_references import Encoder, ImageEncoder
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.demo.web import MAX_BYTES
from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

BATCHES = ("first", "second")
HTTP = HttpConfig(
    contact="mailto:tests@localhost",
    max_bytes=MAX_BYTES,
    domain_delay_s=0,
    allow_networks=("127.0.0.0/8",),
)
CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
DEDUPE = DedupeConfig(measured_references=8)
BPE = BpeConfig(vocabulary=320, max_length=12)


def _load_scorer() -> Scorer:
    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        return np.array([np.asarray(image)[..., 0].mean() for image in images], np.float32)

    return score


def _load_encoder() -> ImageEncoder:
    def encode(images: Sequence[Image.Image]) -> np.ndarray:
        small = [np.asarray(i.resize((8, 8)), np.float32).ravel() - 230 for i in images]
        vectors = np.stack(small)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


def run_all(layout: Layout, sitemap: str, references: str, engine: Engine) -> None:
    """From the web to tokens; then the same pairs as a later batch, which are repeats."""
    first, second = BATCHES
    build_index(references, layout, DEDUPE, engine)
    collect(layout, first, sitemap, engine)
    dedupe_pairs(first, layout, DEDUPE, engine)
    score_pairs(first, layout, Score("redness", "mean red", _load_scorer, "red 1"), engine)
    find_overlap(first, layout, Encoder(_load_encoder, "pixels 8"), 0.9, engine)
    encode(first, layout, engine)
    curated = layout.dataset("curated_pairs", first)
    shutil.copytree(curated, layout.dataset("curated_pairs", second))
    dedupe_pairs(second, layout, DEDUPE, engine, [first])


def collect(layout: Layout, batch: str, sitemap: str, engine: Engine) -> None:
    """Crawl a site and curate its pairs, in several shards."""
    write_batch(CrawlBatch(batch, (Source(batch, SourceKind.SITEMAP, (sitemap,)),)), layout)
    candidates = CandidatesConfig(HTTP, rows_per_part=25, pages_per_shard=10)
    extract_candidates(batch, layout, candidates, engine)
    fetch_pairs(batch, layout, FetchConfig(HTTP), engine)
    curate_pairs(batch, layout, CURATE, engine)


def encode(batch: str, layout: Layout, engine: Engine) -> None:
    """Tokens by a tokenizer that needs no training."""
    tokenizer = MeanColour()
    bpe.train_tokenizer([batch], layout, BPE)
    encode_pairs(
        batch, layout, BPE, EncodeConfig(), MeanColour, tokenizer.sha256, tokenizer.grid, engine,
        image_size=tokenizer.image_size, image_vocabulary=tokenizer.vocabulary,
    )  # fmt: skip


def data(layout: Layout) -> dict[str, str]:
    """What two runs have alike: the content of every dataset, and the bytes of what holds no time.

    Times of the crawl are in `image_text_candidates` and `fetched_pairs` only.
    """
    root = Path(layout.root)
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.name == ledger.SUCCESS:
            done = ledger.require_success(str(path.parent))
            found[name] = f"{done.content} {done.rows} {done.funnel}"
        elif path.suffix == ".parquet":
            timed = name.startswith(("image_text_candidates", "fetched_pairs"))
            found[name] = "" if timed else hashlib.sha256(path.read_bytes()).hexdigest()
    return found
