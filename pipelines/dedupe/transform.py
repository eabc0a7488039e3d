"""Decontamination of one batch: reference copies, then repeats of the same image bytes."""

import functools
import io
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import ledger, parquet, schemas, storage
from pipelines.curate.decode import exhibit
from pipelines.dedupe import reference_index
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.repeats import find_repeats, read_repeats
from pipelines.dedupe.search import Match, Queries, load_index
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import Processed, ShardStage, rejected

CODE_VERSION = "1"
DATASET = "deduped_pairs"
_REPEATS = "_repeats/repeats.parquet"
_BATCH_ROWS = 1024
_ROW_GROUP_ROWS = 512


class Reason(StrEnum):
    """Why a pair is dropped here."""

    REFERENCE_COPY = "reference_copy"
    REPEAT = "repeat"


def dedupe_pairs(batch: str, layout: Layout, config: DedupeConfig, engine: Engine) -> Finished:
    """Write `deduped_pairs` of one batch: curated pairs without reference copies and repeats.

    A reference copy is dropped (`match_of` reads the reject's detail), or kept with `dup_of` in
    mode `flag`; repeats are dropped in both modes.

    Args:
        batch: name of the crawl batch.
        layout: where `curated_pairs` and `coco_hash_index` are and `deduped_pairs` goes.
        config: the mode and the recipe.
        engine: the Beam engine.

    Returns:
        The marker; its details count `undecided`: kept pairs of too little contrast to decide.

    Raises:
        FileNotFoundError: if the curated batch or the index is not finished.
        ValueError: if the index was built with other crops.
    """
    source = layout.dataset("curated_pairs", batch)
    curated = ledger.require_success(source)
    index = layout.dataset(reference_index.DATASET)
    built = ledger.require_success(index)
    if built.details["crops"] != list(config.crops):
        raise ValueError(
            f"{index} was built with the crops {built.details['crops']}, not {list(config.crops)}; "
            "build the index again with this configuration"
        )
    output = layout.dataset(DATASET, batch)
    repeats = join(output, _REPEATS)
    fingerprint = ledger.fingerprint(CODE_VERSION, config, [curated.content, built.content])
    shards = storage.list_files(source, ".parquet")
    done = ledger.read_success(output)
    if done is None or done.fingerprint != fingerprint:
        find_repeats(shards, repeats, engine)
    stage = ShardStage(
        dataset=DATASET,
        schema=_schema(config, built),
        processor=functools.partial(Deduper, index, built.content, repeats, config),
        output=output,
        rejects=layout.rejects(schemas.Stage.DEDUPE, batch),
        fingerprint=fingerprint,
        batch_rows=_BATCH_ROWS,
        writer_options=(("row_group_rows", _ROW_GROUP_ROWS),),
        summarise=functools.partial(_undecided, config=config),
    )
    return stage.run(shards, engine, index=built.content, mode=config.mode)


class Deduper:
    """Processor of curated pairs; the index is shared by all workers of a process."""

    def __init__(self, index: str, content: str, repeats: str, config: DedupeConfig):
        self._index = load_index(index, content, config)
        self._repeats = read_repeats(repeats)
        self._config = config

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Keep a pair, or drop it as a reference copy or as a repeat, asked in this order."""
        matches = self._index.match(Queries.of(batch))
        uids = batch.column("uid").to_pylist()
        drop = self._config.mode == "drop"
        reasons: dict[int, tuple[str, str]] = {}
        for row, (uid, match) in enumerate(zip(uids, matches, strict=True)):
            if match is not None and drop:
                reasons[row] = (Reason.REFERENCE_COPY, json.dumps(match._asdict()))
            elif uid in self._repeats:
                reasons[row] = (Reason.REPEAT, self._repeats[uid].hex())
        rows = np.array([row for row in range(len(uids)) if row not in reasons], np.int64)
        return Processed(_kept(batch, rows, matches), _rejects(batch, reasons))


def match_of(detail: str) -> Match:
    """The reference, variant and distance in the detail of a reject `reference_copy`."""
    return Match(**json.loads(detail))


def _kept(batch: pa.RecordBatch, rows: np.ndarray, matches: list[Match | None]) -> pa.RecordBatch:
    pairs = batch.take(pa.array(rows))
    flags = [matches[row] for row in rows]
    columns = {
        **{name: pairs.column(name) for name in pairs.schema.names},
        "dup_of": pa.array([flag and flag.reference for flag in flags], pa.string()),
        "dup_distance": pa.array([flag and flag.distance for flag in flags], pa.int16()),
    }
    arrays = [columns[name] for name in schemas.DEDUPED_PAIRS.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.DEDUPED_PAIRS)


def _rejects(batch: pa.RecordBatch, reasons: dict[int, tuple[str, str]]) -> pa.RecordBatch:
    dropped = batch.take(pa.array(list(reasons), pa.int64()))
    pictures = [exhibit(Image.open(io.BytesIO(d))) for d in dropped.column("image").to_pylist()]
    words, details = [[pair[i] for pair in reasons.values()] for i in (0, 1)]
    return rejected(dropped, schemas.Stage.DEDUPE, words, details, pictures)


def _undecided(parts: list[str], config: DedupeConfig) -> Mapping[str, Any]:
    """Kept pairs whose contrast is too low to be compared."""
    count = 0
    for part in parts:
        for batch in parquet.read_batches(part, columns=["contrast"]):
            contrast = batch.column("contrast").to_numpy(zero_copy_only=False)
            count += int((contrast < config.min_contrast).sum())
    return {"undecided": count}


def _schema(config: DedupeConfig, index: Finished) -> pa.Schema:
    provenance = {
        "config_hash": ledger.fingerprint(CODE_VERSION, config, []),
        "code_version": CODE_VERSION,
        "index_content": index.content,
    }
    schema = schemas.DEDUPED_PAIRS
    return schema.with_metadata(dict(schema.metadata or {}) | provenance)
