"""The loader beside its demand, three ways to store codes, and BPE dropout beside `tokenizers`.

`python -m benchmarks.token_marks` prints the tables of docs/encoding.md. Seconds are CPU seconds
of one thread.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.marks import Mark
from pipelines import parquet, schemas
from pipelines.encode import bpe
from pipelines.encode.config import TOKEN_FILE_OPTIONS, BpeConfig

if TYPE_CHECKING:
    from training.token_data import BatchMaker

_ROWS = 4096
_CODES, _VOCABULARY = 1024, 8192
_ROUNDS = 5
# Rows a second that a 0.1 B transformer reads on an H100 at 40 % of its peak.
_DEMAND = 430
_CAPTION = "{} number {} as a small emoji, drawn on a white ground with a thin dark outline"


def captions() -> list[str]:
    """The demonstration's captions, in a sentence of a usual length."""
    import emoji

    names = (about["en"] for about in emoji.EMOJI_DATA.values() if "en" in about)
    plain = (name.strip(":").replace("_", " ").lower() for name in names)
    return [_CAPTION.format(name, i) for i, name in enumerate(plain)]


def loader() -> Mark:
    """The loader with BPE dropout beside the demand of a 0.1 B transformer on an H100."""
    seconds = loader_seconds()
    name = f"{_ROWS} rows loaded, BPE dropout"
    return Mark(name, seconds, _ROWS / _DEMAND, f"{_DEMAND} rows/s, 0.1 B on an H100", 10.0)


def loader_for_demo() -> Mark:
    """The loader beside the demo recipe's step for as many rows, both on one core."""
    import torch

    from training.losses import stream_loss
    from training.models.transformer import Transformer
    from training.recipes import demo

    torch.set_num_threads(1)
    recipe, batch = demo(), 16
    length, vocabulary = recipe.text.length, recipe.dvae.vocabulary
    model = Transformer(
        recipe.transformer, recipe.text.vocabulary, length, vocabulary, recipe.dvae.grid
    )
    text = torch.randint(recipe.text.vocabulary, (batch, length))
    codes = torch.randint(vocabulary, (batch, recipe.dvae.grid**2))
    spent = []
    for _ in range(5):
        start = time.process_time()
        nats = model(text, codes)
        stream_loss(nats.text, nats.image, 1 / 8).backward()
        spent.append(time.process_time() - start)
    step = median(spent) / batch * _ROWS
    return Mark(f"{_ROWS} rows loaded for demo", loader_seconds(), step, "its training step", 10.0)


def loader_seconds() -> float:
    """Median CPU seconds of `_ROWS` rows of the paper's size."""
    import torch

    from training.config import SplitConfig
    from training.row_stream import RowStream
    from training.splits import Split
    from training.token_data import Batches

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/part-00000.parquet"
        parquet.write(url, [token_rows()], schemas.token_grids(32), **TOKEN_FILE_OPTIONS)
        columns = ["text_tokens", "image_tokens"]
        stream = RowStream([url], columns, Split.TRAIN, SplitConfig(0.0))
        batches = iter(Batches(batch_maker(), stream, 64))
        spent = []
        for _ in range(3):
            start = time.process_time()
            for _ in range(_ROWS // 64):
                next(batches)
            spent.append(time.process_time() - start)
    return median(spent)


def batch_maker() -> "BatchMaker":
    """The loader's text side, with a tokenizer of the demonstration's captions."""
    from training.text import TextEncoder
    from training.token_data import BatchMaker

    return BatchMaker(TextEncoder(bpe.learn(iter(captions()), BpeConfig()).to_str(), 256), 0.1)


def token_rows() -> pa.RecordBatch:
    """Rows of 32 x 32 codes out of 8,192, whose use falls off as a trained dVAE's does."""
    draw = np.random.default_rng(0)
    use = draw.gamma(1.0, size=_VOCABULARY)
    codes = draw.choice(_VOCABULARY, size=(_ROWS, _CODES), p=use / use.sum()).astype(np.uint16)
    texts = (captions() * (_ROWS // len(captions()) + 1))[:_ROWS]
    schema = schemas.token_grids(32)
    ids = [[int(i) for i in draw.integers(0, 16384, len(text) // 3)] for text in texts]
    columns = [
        pa.array([draw.bytes(16) for _ in texts], pa.binary(16)),
        pa.array([0] * _ROWS, pa.uint8()),
        pa.array(texts),
        pa.array(ids, schema.field("text_tokens").type),
        pa.array([len(i) for i in ids], pa.int16()),
        pa.array([False] * _ROWS),
        pa.FixedSizeListArray.from_arrays(
            pa.array(codes.reshape(-1)), type=schema.field("image_tokens").type
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def bpe_lengthening(count: int = 2000) -> Iterator[tuple[str, float, float]]:
    """Name, captions a second and ids beside canonical ones, of dropout 0.1."""
    texts, maker = captions()[:count], batch_maker()
    encoder = maker.encoder
    plain = sum(len(encoder.encode(text)) for text in texts)
    start = time.process_time()
    ours = sum(
        len(encoder.encode_with_dropout(text, 0.1, random.Random(i)))
        for i, text in enumerate(texts)
    )
    yield "ours", count / (time.process_time() - start), ours / plain
    encoder.tokenizer.model.dropout = 0.1
    start = time.process_time()
    theirs = sum(len(encoder.tokenizer.encode(text).ids) for text in texts)
    yield "tokenizers", count / (time.process_time() - start), theirs / plain
    encoder.tokenizer.model.dropout = None
    start = time.process_time()
    for text in texts:
        encoder.tokenizer.encode(text)
    yield "tokenizers, no dropout", count / (time.process_time() - start), 1.0


def encodings() -> Iterator[tuple[str, float, float, float]]:
    """Name, bytes a row, rows read and written a second, of the column of codes alone.

    Every one is read back and compared with what was written.
    """
    codes = token_rows().column("image_tokens")
    raw = codes.flatten().to_numpy().tobytes()
    size = 2 * _CODES
    binary = pa.array([raw[i : i + size] for i in range(0, len(raw), size)], pa.binary(size))
    element = "image_tokens.list.element"
    plain = {"use_dictionary": False, "write_statistics": False}
    split = {element: "BYTE_STREAM_SPLIT"}
    for name, array, options in (
        ("BYTE_STREAM_SPLIT", codes, plain | {"column_encoding": split}),
        ("dictionary", codes, {"use_dictionary": True, "write_statistics": False}),
        ("plain", codes, plain),
        ("plain, fixed_size_binary", binary, plain),
    ):
        field = pa.field("image_tokens", array.type, nullable=False)
        batch = pa.RecordBatch.from_arrays([array], schema=pa.schema([field]))
        yield name, *_written_and_read(batch, options)


def _written_and_read(batch: pa.RecordBatch, options: dict[str, Any]) -> tuple[float, float, float]:
    spent: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/part.parquet"
        for _ in range(_ROUNDS):
            start = time.process_time()
            written = parquet.write(url, [batch], batch.schema, **options)
            middle = time.process_time()
            found = pq.read_table(url, use_threads=False)
            spent[0].append(middle - start)
            spent[1].append(time.process_time() - middle)
            if not found.column(0).combine_chunks().equals(batch.column(0)):
                raise ValueError(f"{options} gives back other codes than were written")
    rows = batch.num_rows
    return written.bytes / rows, rows / min(spent[1]), rows / min(spent[0])


def entropy_bytes() -> float:
    """Bytes a row that no encoding of independent codes can fall below."""
    codes = token_rows().column("image_tokens").flatten().to_numpy()
    shares = np.bincount(codes, minlength=_VOCABULARY) / len(codes)
    used = shares[shares > 0]
    return float(-(used * np.log2(used)).sum() * _CODES / 8)


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.token_marks", description=__doc__
    ).parse_args()
    print(f"{_ROWS} rows of 32x32 codes; entropy {entropy_bytes():.0f} bytes a row")
    for name, size, read, written in encodings():
        print(f"{name:26} {size:7.0f} bytes a row {read:9.0f} read/s {written:9.0f} written/s")
    print("\nBPE dropout 0.1: captions a second, and ids beside canonical ones")
    for name, rate, longer in bpe_lengthening():
        print(f"{name:26} {rate:9.0f}/s {longer:6.3f}")
    print()
    for mark in (loader(), loader_for_demo()):
        print(f"{mark.name:36} {mark.ratio:7.1f} x {mark.against} (asked {mark.least})")


if __name__ == "__main__":
    main()
