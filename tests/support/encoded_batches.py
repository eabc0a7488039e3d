"""Two encoded crawl batches, ready to be published."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from token_corpus import MeanColour, write_batch

from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout
from pipelines.publish.config import PublishConfig
from pipelines.publish.manifest import Manifest
from pipelines.runners import Engine

BPE = BpeConfig(vocabulary=320)
CONFIG = PublishConfig(rows_per_file=50, row_group_rows=16, licences="CC-BY 4.0, Twemoji")


def encode(layout: Layout, batch: str, tokenizer: MeanColour | None = None) -> None:
    tokenizer = tokenizer or MeanColour()
    encode_pairs(
        batch,
        layout,
        BPE,
        EncodeConfig(crops=2),
        lambda: tokenizer,
        tokenizer.sha256,
        tokenizer.grid,
        Engine(),
        image_size=tokenizer.image_size,
        image_vocabulary=tokenizer.vocabulary,
    )


def build(root: Path, tokenizer: MeanColour | None = None) -> Layout:
    layout = Layout(str(root))
    write_batch(layout, "a", range(50), shards=2, broken=(7,))
    write_batch(layout, "b", range(40, 80), shards=1)  # ten pairs that batch a found too
    bpe.train_tokenizer(["a", "b"], layout, BPE)
    for batch in "ab":
        encode(layout, batch, tokenizer)
    return layout


def table(manifest: Manifest, name: str) -> pa.Table:
    files = manifest.token_files if name == "tokens" else manifest.metadata_files
    return pa.concat_tables(pq.ParquetFile(manifest.url(f)).read() for f in files)
