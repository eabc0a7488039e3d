"""The curation of one batch: caption rules, one safe decode, image rules, hashes."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import NamedTuple

import imagehash
import PIL
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import ledger, parquet, schemas, storage
from pipelines.curate.captions import caption_reasons
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import EXHIBIT_SIDE, DecodeError, decode, encode, exhibit
from pipelines.curate.images import Measured, image_columns, image_reasons, measure, too_few_bytes
from pipelines.curate.language import Detected, load_detector, wrong_language
from pipelines.curate.reasons import Reason
from pipelines.identity import normalise_caption
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import Processed, ShardStage, rejected

CODE_VERSION = "1"
DATASET = "curated_pairs"
# Rows whose shrunk images are in memory together.
_BATCH_ROWS = 64
_ROW_GROUP_ROWS = 512
_COLUMNS = ["uid", "url", "caption_raw", "outcome", "bytes", "image", "image_sha256"]


def curate_pairs(batch: str, layout: Layout, config: CurateConfig, engine: Engine) -> Finished:
    """Write `curated_pairs` of one batch: fetched pairs that pass every rule.

    Rows that were not fetched have their outcome in `fetched_pairs` and do not come in.

    Args:
        batch: name of the crawl batch.
        layout: where `fetched_pairs` is and `curated_pairs` goes.
        config: the thresholds.
        engine: the Beam engine.

    Raises:
        FileNotFoundError: if `fetched_pairs` of the batch is not finished.
    """
    source = layout.dataset("fetched_pairs", batch)
    fetched = ledger.require_success(source)
    stage = ShardStage(
        dataset=DATASET,
        schema=_schema(config),
        processor=functools.partial(Curator, config),
        output=layout.dataset(DATASET, batch),
        rejects=layout.rejects(schemas.Stage.CURATE, batch),
        fingerprint=ledger.fingerprint(CODE_VERSION, config, [fetched.content]),
        batch_rows=_BATCH_ROWS,
        read=read_fetched,
        writer_options=(("row_group_rows", _ROW_GROUP_ROWS),),
    )
    return stage.run(storage.list_files(source, ".parquet"), engine)


def read_fetched(url: str, rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of one shard of `fetched_pairs` whose outcome is `ok`."""
    for batch in parquet.read_batches(url, columns=_COLUMNS, rows=rows):
        yield batch.filter(pc.equal(batch.column("outcome"), "ok"))


class Curator:
    """Processor of fetched pairs; holds the language model."""

    def __init__(self, config: CurateConfig):
        self._config = config
        self._detect = load_detector(config.detector)

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Keep a pair, or drop it with the first rule that it breaks."""
        raw = batch.column("caption_raw").to_pylist()
        captions = pa.array([normalise_caption(caption) for caption in raw], pa.string())
        detected = self._detect(captions.to_pylist())
        cheap = pc.coalesce(
            caption_reasons(captions, self._config),
            wrong_language(detected, self._config),
            too_few_bytes(batch.column("bytes"), self._config),
        )
        drops = {
            row: _Drop(reason, _found(reason, detected, row))
            for row, reason in enumerate(cheap.to_pylist())
            if reason is not None
        }
        measured = self._measure(batch, drops)
        columns = image_columns(list(measured.values()))
        judged = zip(measured, image_reasons(columns, self._config).to_pylist(), strict=True)
        for row, reason in judged:
            if reason is not None:
                size = f"{measured[row].width}x{measured[row].height} pixels"
                drops[row] = _Drop(reason, size)
        texts = {"caption": captions, "lang": detected.lang, "lang_score": detected.score}
        return Processed(
            self._kept(batch, texts, measured, columns, drops),
            self._rejects(batch, measured, drops),
        )

    def _measure(self, batch: pa.RecordBatch, drops: dict[int, "_Drop"]) -> dict[int, Measured]:
        """Decode the rows that are still in, each distinct file once; failures join `drops`."""
        config = self._config
        images, hashes = batch.column("image"), batch.column("image_sha256")
        seen: dict[bytes, Measured | _Drop] = {}
        measured: dict[int, Measured] = {}
        for row in range(batch.num_rows):
            if row in drops:
                continue
            key = hashes[row].as_py()
            if key not in seen:
                try:
                    image = decode(
                        images[row].as_py(), formats=config.formats, max_pixels=config.max_pixels
                    )
                    seen[key] = measure(image, config.short_side)
                except DecodeError as error:
                    seen[key] = _Drop(error.reason, str(error))
            outcome = seen[key]
            if isinstance(outcome, Measured):
                measured[row] = outcome
            else:
                drops[row] = outcome
        return measured

    def _kept(
        self,
        batch: pa.RecordBatch,
        texts: dict[str, pa.Array],
        measured: dict[int, Measured],
        columns: pa.Table,
        drops: dict[int, "_Drop"],
    ) -> pa.RecordBatch:
        """The rows that no rule dropped, in the columns of `curated_pairs`."""
        places = [place for place, row in enumerate(measured) if row not in drops]
        rows = pa.array([row for row in measured if row not in drops], pa.int64())
        from_images = columns.take(pa.array(places, pa.int64())).combine_chunks()
        encoded = [
            encode(image.small, self._config.encoding, self._config.quality)
            for row, image in measured.items()
            if row not in drops
        ]
        found = {
            **{name: batch.column(name).take(rows) for name in batch.schema.names},
            **{name: text.take(rows) for name, text in texts.items()},
            **{name: _array(from_images.column(name)) for name in columns.column_names},
            "image": pa.array(encoded, pa.binary()),
        }
        arrays = [found[field.name].cast(field.type) for field in schemas.CURATED_PAIRS]
        return pa.RecordBatch.from_arrays(arrays, schema=schemas.CURATED_PAIRS)

    def _rejects(
        self, batch: pa.RecordBatch, measured: dict[int, Measured], drops: dict[int, "_Drop"]
    ) -> pa.RecordBatch:
        """The dropped rows in their order, each with a small picture where there is one."""
        rows = sorted(drops)
        pictures = [
            exhibit(measured[row].small)
            if row in measured
            else self._picture(batch.column("image")[row].as_py())
            for row in rows
        ]
        return rejected(
            batch.take(pa.array(rows, pa.int64())),
            schemas.Stage.CURATE,
            [drops[row].reason for row in rows],
            [drops[row].detail for row in rows],
            pictures,
        )

    def _picture(self, data: bytes) -> bytes | None:
        """Exhibit of an image that no rule has decoded yet; at a low scale, for it is cheap."""
        config = self._config
        try:
            image = decode(
                data,
                formats=config.formats,
                max_pixels=config.max_pixels,
                at_least=EXHIBIT_SIDE,
            )
        except DecodeError:
            return None
        return exhibit(image)


class _Drop(NamedTuple):
    reason: str
    detail: str | None


def _found(reason: str, detected: Detected, row: int) -> str | None:
    if reason != Reason.LANGUAGE:
        return None
    return f"{detected.lang[row].as_py()} {detected.score[row].as_py():.2f}"


def _array(column: pa.ChunkedArray) -> pa.Array:
    # A chunked array without chunks does not combine to an array of its type.
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _schema(config: CurateConfig) -> pa.Schema:
    """The contract's schema with the provenance of this configuration."""
    provenance = {
        "config": json.dumps(dataclasses.asdict(config), sort_keys=True),
        "config_hash": ledger.fingerprint(CODE_VERSION, config, []),
        "code_version": CODE_VERSION,
        "hash_algorithm": f"imagehash.phash, imagehash {imagehash.__version__}",
        "pillow": PIL.__version__,
    }
    schema = schemas.CURATED_PAIRS
    return schema.with_metadata(dict(schema.metadata or {}) | provenance)
