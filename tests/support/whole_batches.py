"""Crawl batches through every stage up to tokens, without Dagster, a network or a training."""

import dataclasses
import datetime
import functools
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import tiny_training
from fetched_corpus import artwork, fetched_pairs, row

from assets.lib.settings import Settings
from pipelines import ledger, parquet, schemas
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.references import ReferenceSource
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.encode import bpe
from pipelines.encode.transform import encode_pairs
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine
from training import finished
from training.config import Recipe
from training.image_tokenizer import image_tokenizer_info, load_image_tokenizer
from training.models.dvae import DVAE

PER_BATCH = 10
REFERENCES = ("snail", "guitar", "dragon")


def recipe() -> Recipe:
    """The tiny one under the demo's name, whose rules take small pictures."""
    return dataclasses.replace(tiny_training.tiny(), name="demo")


def settings(root: Path) -> Settings:
    """Of a data root below `root`, with a folder of reference images beside it."""
    return Settings(
        data_root=str(root / "data"),
        recipe="demo",
        reference_images=str(root / "references"),
        processes=1,
        max_updates=1,
    )


def names(batch: int) -> list[str]:
    """Of the drawings that a batch shows; a later one also repeats the first, and itself."""
    others = [name for name in artwork() if name not in REFERENCES]
    own = others[:: len(others) // 40][batch * PER_BATCH :][:PER_BATCH]
    return [*own, own[0], names(0)[0]] if batch else own


def write_references(root: Path, drawings: Sequence[str]) -> None:
    """Put drawings among the reference images, and index all of them."""
    folder, where = root / "references", settings(root)
    folder.mkdir(parents=True, exist_ok=True)
    for name in drawings:
        (folder / f"{name}.png").write_bytes(artwork()[name])
    build_index(ReferenceSource(str(folder)), where.layout, where.stages().dedupe, Engine())


def build(root: Path, batches: str = "ab") -> Settings:
    """Batches of one letter each, encoded by a dVAE that was never trained."""
    where = settings(root)
    layout, stages = where.layout, where.stages()
    write_references(root, REFERENCES)
    for number, batch in enumerate(batches):
        write_batch(CrawlBatch(batch, (Source("l", SourceKind.URL_LIST, ("l.tsv",)),)), layout)
        _crawl(where, batch, number)
        curate_pairs(batch, layout, stages.curate, Engine())
        dedupe_pairs(batch, layout, stages.dedupe, Engine(), list(batches[:number]))
    bpe.train_tokenizer(list(batches), layout, stages.bpe)
    write_dvae(where)
    for batch in batches:
        encode(where, batch)
    return where


def _crawl(where: Settings, batch: str, number: int) -> None:
    rows = [
        row(100 * number + place, f"the {name} as an emoji", artwork()[name])
        for place, name in enumerate(names(number))
    ]
    schema, found_at = schemas.IMAGE_TEXT_CANDIDATES, datetime.datetime.now(datetime.UTC)
    more = {"source": "l", "found_at": found_at}
    table = pa.Table.from_pylist([{**r, **more} for r in rows], schema=schema)
    directory = where.layout.dataset("image_text_candidates", batch)
    file = parquet.write(f"{directory}/part-00000.parquet", table.to_batches(), schema)
    funnel = Funnel(len(rows), len(rows))
    found = Finished("image_text_candidates", "f", "c", file.rows, file.bytes, funnel)
    ledger.write_success(directory, found)
    fetched_pairs(where.layout, batch, rows)


def write_dvae(where: Settings, seed: int = 0) -> None:
    """A finished model of random weights that says it is good."""
    import torch

    torch.manual_seed(seed)
    config = recipe().dvae
    summary = {"codebook_perplexity": 9.0, "psnr_db": 12.0}
    finished.write(Path(where.layout.model("dvae")), "test", DVAE(config), config, summary)


def encode(where: Settings, batch: str) -> None:
    """As the asset does."""
    stages, model = where.stages(), where.layout.model("dvae")
    info = image_tokenizer_info(model)
    encode_pairs(
        batch,
        where.layout,
        stages.bpe,
        stages.encode,
        functools.partial(load_image_tokenizer, model, stages.encode.precision),
        info.sha256,
        info.grid,
        Engine(),
        image_size=info.image_size,
        image_vocabulary=info.vocabulary,
    )
