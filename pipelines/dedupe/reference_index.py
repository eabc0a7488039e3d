"""Build `coco_hash_index` from reference images, and measure what it catches.

    python -m pipelines.dedupe.reference_index IMAGES --output DIR

A build hashes only images that are new or changed since the last one; Beam spreads them over its
workers in tasks whose results stay until the build is finished, so a killed one goes on.
"""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.dedupe import hashes, measure, search
from pipelines.dedupe import reference_hashing as hashing
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_hashing import Tables, Work
from pipelines.dedupe.reference_merge import (
    QUERIES_FILE,
    REFERENCES_FILE,
    known_tables,
    merge,
    sample,
    works,
)
from pipelines.dedupe.references import Listing, ReferenceSource, list_references
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine

DATASET = "coco_hash_index"
MISSING = "missing_file"
TASKS = "_tasks"
_TASK_IMAGES = 256
_ROW_GROUP_ROWS = 65536
_NAMES_SHOWN = 20
log = logging.getLogger(__name__)


def build_index(
    images: str | ReferenceSource,
    layout: Layout,
    config: DedupeConfig,
    engine: Engine | None = None,
) -> Finished:
    """`write_index` to its place below the data root."""
    source = ReferenceSource(images) if isinstance(images, str) else images
    return write_index(source, layout.dataset(DATASET), config, engine or Engine())


def write_index(
    source: ReferenceSource,
    output: str,
    config: DedupeConfig,
    engine: Engine,
    unrelated: ReferenceSource | None = None,
) -> Finished:
    """Write the hashes of every image of a source, and measure what they catch.

    Images that are not there, cannot be decoded or hold too little information are counted in
    the funnel, not indexed.

    Args:
        source: the reference images.
        output: directory of the index. Beside the table of hashes it gets `references/` (a row an
            image, with its outcome) and `measured/` (see `measure`).
        config: the recipe.
        engine: the Beam engine that hashes.
        unrelated: pictures that copy no reference, to count how many are flagged all the same.

    Returns:
        The marker; its details hold the files' SHA-256, the source's own lists (`splits`), what was
        `measured`, and `undecided`: references of which re-encoded copies may be missed, because
        noise of one grey level may flip more bits than `radius` (pictures symmetric left to right).

    Raises:
        FileNotFoundError: if there is no image.
    """
    listing = list_references(source)
    others = list_references(unrelated) if unrelated else Listing(())
    recipe = _recipe(config)
    # What becomes of a copy or a repeat does not change the index.
    measured = [
        config.radius,
        config.confirm,
        config.measured_references,
        config.measured_unrelated,
    ]
    stamps = [f"{r.name} {r.stamp}" for r in (*listing.references, *others.references)]
    fingerprint = ledger.fingerprint(recipe, measured, [*stamps, *listing.missing])
    done = ledger.read_success(output)
    if done is not None and done.dataset != DATASET:
        raise ValueError(f"{output} holds {done.dataset}: choose another place for the index")
    if done is not None and done.fingerprint == fingerprint and not done.details["try_again"]:
        log.info("%s is up to date", output)
        return done

    known = known_tables(output, done, recipe)
    todo = works(listing, known, config)
    strangers = others.references[: config.measured_unrelated]
    asked = [Work(reference, None, False, ("none",)) for reference in strangers]
    new = _hash(todo, source, join(output, TASKS, "references"), config, recipe, engine)
    if unrelated is not None:
        foreign = _hash(asked, unrelated, join(output, TASKS, "unrelated"), config, recipe, engine)
    merged = merge(listing, known, new, sample(listing, config))

    storage.remove(join(output, ledger.SUCCESS))
    hashed = merged.hashes.replace_schema_metadata(_schema(config).metadata)
    written = {
        name: parquet.write(
            join(output, name), table.to_batches(), table.schema, row_group_rows=_ROW_GROUP_ROWS
        )
        for name, table in (
            (search.HASHES_FILE, hashed),
            (REFERENCES_FILE, merged.references),
            (QUERIES_FILE, merged.queries),
        )
    }
    index = search.ReferenceIndex(search.HashTable.of(merged.hashes), config)
    recalled = measure.recall(index, merged.queries, config)
    flagged = measure.false_flags(index, foreign.queries if unrelated else None, config)
    files = {name: file.sha256 for name, file in written.items()}
    files |= measure.write_measured(output, recalled, flagged)
    outcomes = Counter(merged.references.column("outcome").to_pylist())
    finished = Finished(
        dataset=DATASET,
        fingerprint=fingerprint,
        content=_content(output, files[search.HASHES_FILE]),
        rows=written[search.HASHES_FILE].rows,
        bytes=written[search.HASHES_FILE].bytes,
        funnel=_funnel(outcomes, len(listing.missing)),
        details={
            "files": files,
            "images": source.images,
            "recipe": recipe,
            "crops": list(config.crops),
            "cuts": list(config.cuts),
            "splits": listing.splits,
            "missing": list(listing.missing[:_NAMES_SHOWN]),
            "try_again": merged.references.column("stamp").null_count,
            "hashed": len(todo),
            "no_decision": outcomes[hashing.LOW_INFORMATION],
            "undecided": _undecided(merged.references, config),
            "measured": _summary(recalled, flagged),
        },
    )
    ledger.write_success(output, finished)
    storage.remove(join(output, TASKS), recursive=True)
    return finished


def reference_pictures(directory: str, names: Sequence[str]) -> dict[str, bytes]:
    """Small WebP pictures of some references of a finished index, by name.

    Raises:
        ValueError: if the file that holds them is not what was built.
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    if not wanted:
        return found
    url = search.built_file(directory, REFERENCES_FILE)
    for batch in parquet.read_batches(url, columns=["reference", "picture"]):
        own = batch.filter(pc.is_in(batch.column("reference"), pa.array([*wanted], pa.string())))
        for row in own.to_pylist():
            found[row["reference"]] = row["picture"]
    return found


def _hash(
    works: Sequence[Work],
    source: ReferenceSource,
    directory: str,
    config: DedupeConfig,
    recipe: str,
    engine: Engine,
) -> Tables:
    """Hash in tasks on Beam, and read their results."""
    import apache_beam as beam

    tasks = []
    for start in range(0, len(works), _TASK_IMAGES):
        some = list(works[start : start + _TASK_IMAGES])
        parts = [f"{w.reference} {w.sha256!r} {bool(w.attacks)}" for w in some]
        tasks.append((ledger.fingerprint(recipe, None, parts), some))
    if tasks:
        run = functools.partial(_run_task, source=source, config=config, directory=directory)
        with engine.pipeline() as pipeline:
            _ = (
                pipeline
                | "tasks" >> beam.Create(tasks)
                | "spread" >> beam.Reshuffle()
                | "hash references" >> beam.Map(run)
            )
    return hashing.read_tasks(directory, [key for key, _ in tasks])


def _run_task(
    task: tuple[str, list[Work]], source: ReferenceSource, config: DedupeConfig, directory: str
) -> None:
    hashing.hash_task(*task, source=source, config=config, directory=directory)


def _content(output: str, hashes_sha256: str) -> str:
    """Of the hashes and of what became of each image; neither stamps nor figures count."""
    columns = ("reference", "outcome", "sha256")
    outcomes = parquet.column_hash(join(output, REFERENCES_FILE), columns)
    return ledger.content_hash({"hashes": hashes_sha256, "references": outcomes})


def _funnel(outcomes: Counter[str], missing: int) -> Funnel:
    dropped = {name: count for name, count in outcomes.items() if name != hashing.INDEXED}
    if missing:
        dropped[MISSING] = missing
    kept = outcomes[hashing.INDEXED]
    return Funnel(kept + sum(dropped.values()), kept, dict(sorted(dropped.items())))


def _undecided(references: pa.Table, config: DedupeConfig) -> int:
    indexed = references.filter(pc.equal(references.column("outcome"), hashing.INDEXED))
    return int(pc.sum(pc.greater(indexed.column("undecided_bits"), config.radius)).as_py() or 0)


def _summary(recalled: pa.Table, flagged: pa.Table) -> dict[str, Any]:
    counts = ("tried", "caught")
    return {
        "recall": {r["attack"]: {c: r[c] for c in counts} for r in recalled.to_pylist()},
        "false_flags": [
            {"against": r["against"], "tried": r["tried"], "flagged": r["caught"]}
            | {"upper_95": r["high_95"]}
            for r in flagged.to_pylist()
        ],
    }


def _recipe(config: DedupeConfig) -> str:
    """Hash of all that the hashes of an image depend on beside its bytes."""
    return ledger.fingerprint(code_versions.REFERENCE_INDEX, _provenance(config), [])


def _provenance(config: DedupeConfig) -> dict[str, str]:
    crops, cuts = (",".join(map(str, each)) for each in (config.crops, config.cuts))
    return {
        "crops": crops,
        "cuts": cuts,
        "min_contrast": str(config.min_contrast),
        **hashes.provenance(),
    }


def _schema(config: DedupeConfig) -> pa.Schema:
    provenance = {"config_hash": _recipe(config), "code_version": code_versions.REFERENCE_INDEX}
    schema = schemas.COCO_HASH_INDEX
    return schema.with_metadata(dict(schema.metadata or {}) | provenance | _provenance(config))


if __name__ == "__main__":
    from pipelines.dedupe import reference_cli

    reference_cli.main()
