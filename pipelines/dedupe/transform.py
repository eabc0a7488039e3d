"""Decontamination of one batch: reference copies, then repeats of pictures seen before."""

import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.curate.decode import exhibit
from pipelines.dedupe import hashes, overlap, reference_index, repeats
from pipelines.dedupe.config import DedupeConfig, Mode
from pipelines.dedupe.repeats import Repeat, find_repeats, read_repeats
from pipelines.dedupe.search import Match, Queries, load_index
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.shards import Processed, ShardStage, rejected

DATASET = "deduped_pairs"
_BATCH_ROWS = 1024
_ROW_GROUP_ROWS = 512
# What is said of curated pairs in their metadata, and is as true of those that stay.
_OF_CURATION = [n.encode() for n in (*hashes.provenance(), "hashed_picture", "decoders")]


class Reason(StrEnum):
    """Why a pair is dropped here."""

    REFERENCE_COPY = "reference_copy"
    REPEAT = "repeat"
    NEAR_REPEAT = "near_repeat"


@dataclasses.dataclass(frozen=True)
class Places:
    """Directories of one deduplication.

    Attributes:
        curated: finished `curated_pairs` of a batch.
        index: finished `coco_hash_index`.
        output: where `deduped_pairs` go.
        rejects: where the dropped rows go.
        earlier: name and directory of the deduped pairs of earlier batches, the earliest first;
            unfinished ones do not count.
    """

    curated: str
    index: str
    output: str
    rejects: str
    earlier: Mapping[str, str] = dataclasses.field(default_factory=dict)


def dedupe_pairs(
    batch: str,
    layout: Layout,
    config: DedupeConfig,
    engine: Engine,
    earlier: Sequence[str] = (),
) -> Finished:
    """`write_deduped` of one crawl batch below the data root.

    Args:
        batch: name of the crawl batch.
        layout: where `curated_pairs` and `coco_hash_index` are and `deduped_pairs` goes.
        config: the mode and the recipe.
        engine: the Beam engine.
        earlier: names of the batches before it, the earliest first.
    """
    places = Places(
        curated=layout.dataset("curated_pairs", batch),
        index=layout.dataset(reference_index.DATASET),
        output=layout.dataset(DATASET, batch),
        rejects=layout.rejects(schemas.Stage.DEDUPE, batch),
        earlier={name: layout.dataset(DATASET, name) for name in earlier},
    )
    return write_deduped(places, config, engine)


def write_deduped(places: Places, config: DedupeConfig, engine: Engine) -> Finished:
    """Write `deduped_pairs`: curated pairs without reference copies and repeats.

    A reference copy is dropped (`match_of` reads the reject's detail), or kept with `dup_of` in
    the modes `flag` and `report`; repeats are dropped in all modes. `overlap.FILE` in the output
    lists the references that were met.

    Returns:
        The marker; its details count `no_decision` (kept pairs of too little contrast to decide)
        and `overlapping_references`, and list name and content of the `earlier_batches` that were
        searched for repeats, the earliest first.

    Raises:
        FileNotFoundError: if the curated pairs or the index are not finished.
        ValueError: if the index was built with other crops.
    """
    curated = ledger.require_parts(places.curated)
    built = ledger.require_success(places.index)
    parts = [list(config.crops), list(config.cuts)]
    if [built.details["crops"], built.details.get("cuts")] != parts:
        raise ValueError(
            f"{places.index} was built with the crops {built.details['crops']} and the cuts "
            f"{built.details.get('cuts')}, not {parts[0]} and {parts[1]}; build the index again "
            "with this configuration"
        )
    before = finished_contents(places.earlier)
    contents = [curated.content, built.content, *before.values()]
    fingerprint = ledger.fingerprint(code_versions.DEDUPE, config, contents)
    output = places.output
    shards = storage.list_files(places.curated, ".parquet")
    work = join(output, repeats.DIRECTORY, "work", fingerprint)
    done = ledger.read_success(output)
    if done is None or done.fingerprint != fingerprint:
        find_repeats(shards, [places.earlier[name] for name in before], work, config, engine)
    stage = ShardStage(
        dataset=DATASET,
        schema=_schema(config, built, shards),
        processor=functools.partial(Deduper, places.index, built.content, work, config),
        output=output,
        rejects=places.rejects,
        fingerprint=fingerprint,
        batch_rows=_BATCH_ROWS,
        writer_options=(("row_group_rows", _ROW_GROUP_ROWS),),
        summarise=functools.partial(_summary, places=places, work=work, config=config),
    )
    finished = stage.run(
        shards,
        engine,
        index=built.content,
        mode=str(config.mode),
        earlier_batches=[list(one) for one in before.items()],
    )
    storage.remove(join(output, repeats.DIRECTORY, "work"), recursive=True)
    return finished


def finished_contents(places: Mapping[str, str]) -> dict[str, str]:
    """Name to content of the batches that are finished, of name to directory; order kept."""
    markers = {name: ledger.read_success(directory) for name, directory in places.items()}
    return {name: marker.content for name, marker in markers.items() if marker is not None}


def searched_batches(finished: Finished) -> dict[str, str]:
    """Name to content of the earlier batches whose pairs were repeats here, the earliest first."""
    return dict(finished.details.get("earlier_batches", ()))


class Deduper:
    """Processor of curated pairs; the index is shared by all workers of a process."""

    def __init__(self, index: str, content: str, work: str, config: DedupeConfig):
        self._index = load_index(index, content, config)
        self._repeats = read_repeats(join(work, repeats.FILE))
        self._config = config

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Keep a pair, or drop it as a reference copy or as a repeat, asked in this order."""
        matches = self._index.match(Queries.of(batch))
        uids = batch.column("uid").to_pylist()
        drop = self._config.mode == Mode.DROP
        reasons: dict[int, tuple[str, str]] = {}
        for row, (uid, match) in enumerate(zip(uids, matches, strict=True)):
            if match is not None and drop:
                reasons[row] = (Reason.REFERENCE_COPY, json.dumps(match._asdict()))
            elif uid in self._repeats:
                reasons[row] = _repeated(self._repeats[uid])
        rows = np.array([row for row in range(len(uids)) if row not in reasons], np.int64)
        return Processed(_kept(batch, rows, matches), _rejects(batch, reasons))


def match_of(detail: str) -> Match:
    """The reference, variant and distance in the detail of a reject `reference_copy`."""
    return Match(**json.loads(detail))


def repeat_of(detail: str) -> Repeat:
    """What is kept instead of a reject `repeat` or `near_repeat`, from its detail."""
    found = json.loads(detail)
    return Repeat(bytes.fromhex(found["kept_uid"]), found["distance"], found["earlier"])


def _repeated(repeat: Repeat) -> tuple[str, str]:
    same = repeat.distance == repeats.SAME_FILE
    detail = json.dumps(repeat._asdict() | {"kept_uid": repeat.kept_uid.hex()})
    return Reason.REPEAT if same else Reason.NEAR_REPEAT, detail


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


def _summary(
    parts: list[str], places: Places, work: str, config: DedupeConfig
) -> Mapping[str, Any]:
    """Write what later batches and evaluations need, and count what was not decided."""
    repeats.keep_signatures(work, parts, places.output)
    rejects = storage.list_files(places.rejects, ".parquet")
    met = overlap.write_overlap(places.output, parts, rejects, Reason.REFERENCE_COPY)
    count = 0
    for part in parts:
        for batch in parquet.read_batches(part, columns=["contrast"]):
            contrast = batch.column("contrast").to_numpy(zero_copy_only=False)
            count += int((contrast < config.min_contrast).sum())
    return {"no_decision": count, "overlapping_references": met}


def _schema(config: DedupeConfig, index: Finished, curated: Sequence[str]) -> pa.Schema:
    """The contract's columns, and what made them; the hashes are those that curation made."""
    found = (parquet.read_schema(curated[0]).metadata or {}) if curated else {}
    provenance: dict[bytes | str, bytes | str] = {
        "config": json.dumps(dataclasses.asdict(config), sort_keys=True),
        "config_hash": ledger.fingerprint(code_versions.DEDUPE, config, []),
        "code_version": code_versions.DEDUPE,
        "index_content": index.content,
        **{name: found[name] for name in _OF_CURATION if name in found},
    }
    schema = schemas.DEDUPED_PAIRS
    return schema.with_metadata(dict(schema.metadata or {}) | provenance)
