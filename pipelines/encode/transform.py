"""`deduped_pairs` to `token_grids`: every pair as BPE ids and K grids of image codes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.encode import bpe as bpe_module
from pipelines.encode.config import TOKEN_FILE_OPTIONS, BpeConfig, EncodeConfig
from pipelines.encode.encoder import ImageFacts, PairEncoder, TextFacts
from pipelines.encode.image_tokens import CROP_RECIPE, ImageTokenizer, decode
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import ShardStage

DATASET = "token_grids"
COLUMNS = ["uid", "url", "caption", "caption_raw", "image"]


def _read_pairs(url: str, rows: int) -> Iterable[pa.RecordBatch]:
    return parquet.read_batches(url, columns=COLUMNS, rows=rows)


@dataclass(frozen=True)
class Source:
    """Pairs to encode.

    Attributes:
        shards: their names.
        content: hash of what they hold.
        read: gives a shard as record batches of at most so many rows: uid, caption, image, and for
            rejects url and caption_raw.
        decode: makes RGB of an image's bytes, or raises ValueError with the reason.
    """

    shards: Sequence[str]
    content: str
    read: Callable[[str, int], Iterable[pa.RecordBatch]] = _read_pairs
    decode: Callable[[bytes], Image.Image] = decode


def encode_pairs(
    batch: str,
    layout: Layout,
    bpe: BpeConfig,
    config: EncodeConfig,
    image_tokenizer: Callable[[], ImageTokenizer],
    image_tokenizer_sha256: str,
    grid: int,
    engine: Engine,
    *,
    image_size: int,
    image_vocabulary: int,
) -> Finished:
    """Encode one batch.

    The funnel counts pairs; the dataset has `config.crops` rows for each pair kept.

    Args:
        batch: name of the crawl batch.
        layout: where datasets live.
        bpe: configuration that the tokenizer was trained with.
        config: crops, precision and batch size.
        image_tokenizer: picklable; makes the image tokenizer once in every worker process.
        image_tokenizer_sha256: of its weights; a change makes the tokens out of date.
        grid: codes along one side of its output.
        engine: Beam engine.
        image_size: side of the images it takes, in pixels.
        image_vocabulary: number of its codes.

    Raises:
        FileNotFoundError: if `deduped_pairs` or the tokenizer is not finished.
        ValueError: if the tokenizer was trained with another configuration.
    """
    pairs = layout.dataset("deduped_pairs", batch)
    upstream = ledger.require_parts(pairs)
    tokenizer = ledger.require_success(layout.tokenizer).details
    if tokenizer["config"] != dataclasses.asdict(bpe):
        raise ValueError(
            f"{layout.tokenizer} was trained with {tokenizer['config']}, asked for "
            f"{dataclasses.asdict(bpe)}; materialise {bpe_module.DATASET} again"
        )
    return write_token_grids(
        Source(storage.list_files(pairs, ".parquet"), upstream.content),
        TextFacts(
            url=join(layout.tokenizer, bpe_module.FILE_NAME),
            sha256=tokenizer["sha256"],
            vocabulary=tokenizer["vocabulary"],
            max_length=bpe.max_length,
        ),
        ImageFacts(image_tokenizer_sha256, image_size, grid, image_vocabulary, config.precision),
        image_tokenizer,
        config,
        engine,
        output=layout.dataset(DATASET, batch),
        rejects=layout.rejects(schemas.Stage.ENCODE, batch),
        deduped_pairs=upstream.content,
    )


def write_token_grids(
    source: Source,
    text: TextFacts | None,
    image: ImageFacts,
    image_tokenizer: Callable[[], ImageTokenizer],
    config: EncodeConfig,
    engine: Engine,
    *,
    output: str,
    rejects: str,
    **details: Any,
) -> Finished:
    """Encode pairs into the directory `output`.

    Args:
        source: the pairs.
        text: tokenizer of the captions; None where there are none.
        image: what the image tokenizer must be.
        image_tokenizer: picklable; makes it once in every worker process.
        config: crops, precision and batch size.
        engine: Beam engine.
        output: directory of the dataset.
        rejects: directory of the pairs whose image cannot be decoded.
        details: figures of the caller's own, for the marker.
    """
    provenance = {
        "tokenizer_sha256": text.sha256 if text else "none",
        "text_vocabulary": str(text.vocabulary if text else 0),
        "text_max_length": str(text.max_length if text else 0),
        "dvae_sha256": image.sha256,
        "image_vocabulary": str(image.vocabulary),
        "image_size": str(image.image_size),
        "grid": str(image.grid),
        "precision": image.precision,
        "crops": str(config.crops),
        "crop_recipe": CROP_RECIPE,
        "encode_code_version": code_versions.TOKEN_GRIDS,
    }
    plain = schemas.token_grids(image.grid)
    stage = ShardStage(
        dataset=DATASET,
        schema=plain.with_metadata({**plain.metadata, **provenance}),
        processor=functools.partial(
            _encoder, text, image, once_per_process(image_tokenizer), config, source.decode
        ),
        output=output,
        rejects=rejects,
        fingerprint=ledger.fingerprint(code_versions.TOKEN_GRIDS, provenance, [source.content]),
        batch_rows=config.batch_rows,
        read=source.read,
        summarise=_truncated,
        writer_options=tuple(TOKEN_FILE_OPTIONS.items()),
        shards_together=config.shards_together,
    )
    return stage.run(source.shards, engine, provenance=provenance, **details)


def once_per_process(
    image_tokenizer: Callable[[], ImageTokenizer],
) -> Callable[[], ImageTokenizer]:
    """The same factory, whose image tokenizer all threads of a worker process share."""
    from apache_beam.utils.shared import Shared

    return functools.partial(Shared().acquire, image_tokenizer)


def _encoder(
    text: TextFacts | None,
    image: ImageFacts,
    image_tokenizer: Callable[[], ImageTokenizer],
    config: EncodeConfig,
    opened: Callable[[bytes], Image.Image],
) -> PairEncoder:
    threads = config.decode_threads
    return PairEncoder(text, image, image_tokenizer, config.crops, config.batch, threads, opened)


def _truncated(parts: list[str]) -> dict[str, int]:
    """Rows whose caption lost ids to `max_length`."""
    batches = (b for part in parts for b in parquet.read_batches(part, columns=["text_truncated"]))
    return {"text_truncated_rows": sum(pc.sum(b.column(0)).as_py() or 0 for b in batches)}
