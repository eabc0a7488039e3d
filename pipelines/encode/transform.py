"""`deduped_pairs` to `token_grids`: every pair as BPE ids and K grids of image codes."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipelines import ledger, parquet, schemas, storage
from pipelines.encode import bpe as bpe_module
from pipelines.encode.config import TOKEN_FILE_OPTIONS, BpeConfig, EncodeConfig
from pipelines.encode.image_tokens import CROP_RECIPE, ImageTokenizer, crop, decode
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine
from pipelines.shards import Processed, Processor, ShardStage, rejected

CODE_VERSION = "1"
DATASET = "token_grids"
UNDECODABLE = "undecodable_image"


@dataclass(frozen=True)
class _Settings:
    """What a worker needs to encode."""

    tokenizer_url: str
    tokenizer_sha256: str
    max_length: int
    crops: int
    image_tokenizer_sha256: str
    grid: int
    image_size: int
    image_vocabulary: int


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
        config: crops and batch size.
        image_tokenizer: picklable; makes the image tokenizer once in every worker.
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
    provenance = {
        "tokenizer_sha256": tokenizer["sha256"],
        "text_vocabulary": str(tokenizer["vocabulary"]),
        "text_max_length": str(bpe.max_length),
        "dvae_sha256": image_tokenizer_sha256,
        "image_vocabulary": str(image_vocabulary),
        "image_size": str(image_size),
        "grid": str(grid),
        "crops": str(config.crops),
        "crop_recipe": CROP_RECIPE,
        "encode_code_version": CODE_VERSION,
    }
    plain = schemas.token_grids(grid)
    schema = plain.with_metadata({**plain.metadata, **provenance})
    settings = _Settings(
        tokenizer_url=join(layout.tokenizer, bpe_module.FILE_NAME),
        tokenizer_sha256=tokenizer["sha256"],
        max_length=bpe.max_length,
        crops=config.crops,
        image_tokenizer_sha256=image_tokenizer_sha256,
        grid=grid,
        image_size=image_size,
        image_vocabulary=image_vocabulary,
    )
    stage = ShardStage(
        dataset=DATASET,
        schema=schema,
        processor=functools.partial(_PairEncoder, settings, image_tokenizer),
        output=layout.dataset(DATASET, batch),
        rejects=layout.rejects(schemas.Stage.ENCODE, batch),
        fingerprint=ledger.fingerprint(
            CODE_VERSION, [provenance, dataclasses.asdict(config)], [upstream.content]
        ),
        batch_rows=config.batch_rows,
        summarise=_truncated,
        writer_options=tuple(TOKEN_FILE_OPTIONS.items()),
    )
    shards = storage.list_files(pairs, ".parquet")
    return stage.run(shards, engine, provenance=provenance, deduped_pairs=upstream.content)


def _truncated(parts: list[str]) -> dict[str, int]:
    """Rows whose caption lost ids to `max_length`."""
    batches = (b for part in parts for b in parquet.read_batches(part, columns=["text_truncated"]))
    return {"text_truncated_rows": sum(pc.sum(b.column(0)).as_py() or 0 for b in batches)}


class _PairEncoder(Processor):
    """Encodes batches of `deduped_pairs`; holds both tokenizers."""

    def __init__(self, settings: _Settings, image_tokenizer: Callable[[], ImageTokenizer]):
        self._settings = settings
        self._text = bpe_module.load_tokenizer(settings.tokenizer_url, settings.tokenizer_sha256)
        self._image = image_tokenizer()
        for name, wanted in (
            ("sha256", settings.image_tokenizer_sha256),
            ("grid", settings.grid),
            ("image_size", settings.image_size),
            ("vocabulary", settings.image_vocabulary),
        ):
            found = getattr(self._image, name)
            if found != wanted:
                raise ValueError(
                    f"the image tokenizer's {name} is {found}, the stage was started for {wanted}; "
                    "start it again with the current model"
                )

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        pictures, good, bad, errors = [], [], [], []
        for row, image in enumerate(batch.column("image").to_pylist()):
            try:
                pictures.append(decode(image))
                good.append(row)
            except ValueError as error:
                bad.append(row)
                errors.append(str(error))
        kept = batch.take(pa.array(good, pa.int64()))
        dropped = batch.take(pa.array(bad, pa.int64()))
        reasons = [UNDECODABLE] * len(bad)
        rejects = rejected(dropped, schemas.Stage.ENCODE, reasons, errors)
        counts = {UNDECODABLE: len(bad)} if bad else {}
        funnel = Funnel(batch.num_rows, kept.num_rows, counts)
        return Processed(self._rows(kept, self._codes(kept, pictures)), rejects, funnel)

    def _codes(self, rows: pa.RecordBatch, pictures: list[Image.Image]) -> npt.NDArray[np.uint16]:
        """Codes of every crop, uint16 [rows, crops, grid * grid]."""
        settings = self._settings
        codes = np.empty((len(pictures), settings.crops, settings.grid**2), np.uint16)
        if not pictures:
            return codes
        uids = rows.column("uid").to_pylist()
        for crop_id in range(settings.crops):
            images = np.stack(
                [
                    crop(picture, uid, crop_id, settings.image_size)
                    for picture, uid in zip(pictures, uids, strict=True)
                ]
            )
            found = self._image(images)
            expected = (len(pictures), settings.grid, settings.grid)
            if found.shape != expected or found.dtype != np.uint16:
                raise ValueError(
                    f"the image tokenizer gave {found.dtype} {found.shape}, expected uint16 "
                    f"{expected}"
                )
            if int(found.max()) >= settings.image_vocabulary:
                raise ValueError(
                    f"the image tokenizer gave code {found.max()}, beyond its vocabulary of "
                    f"{settings.image_vocabulary}"
                )
            codes[:, crop_id] = found.reshape(len(pictures), -1)
        return codes

    def _rows(self, rows: pa.RecordBatch, codes: npt.NDArray[np.uint16]) -> pa.RecordBatch:
        settings = self._settings
        captions = rows.column("caption").to_pylist()
        ids = [encoding.ids for encoding in self._text.encode_batch_fast(captions)]
        cut = [found[: settings.max_length] for found in ids]
        pairs = pa.array(np.repeat(np.arange(len(ids)), settings.crops))
        schema = schemas.token_grids(settings.grid)
        columns = {
            "uid": rows.column("uid").take(pairs),
            "crop_id": pa.array(np.tile(np.arange(settings.crops, dtype=np.uint8), len(ids))),
            "caption": rows.column("caption").take(pairs),
            "text_tokens": pa.array(cut, schema.field("text_tokens").type).take(pairs),
            "text_length": pa.array([len(found) for found in cut], pa.int16()).take(pairs),
            "text_truncated": pa.array(
                [len(found) > settings.max_length for found in ids], pa.bool_()
            ).take(pairs),
            "image_tokens": pa.FixedSizeListArray.from_arrays(
                pa.array(codes.reshape(-1)), type=schema.field("image_tokens").type
            ),
        }
        return pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema)
