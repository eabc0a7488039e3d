"""What a publication reads: finished batches that were made with the same tokenizers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import ledger, parquet, schemas, storage
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.publish.funnel import FLOW, Step, funnel
from pipelines.publish.manifest import StageRecord

_PAIR_COLUMNS = [n for n in schemas.TOKEN_METADATA.names if n not in ("crop_id", "crawl_batch")]


@dataclass(frozen=True)
class BatchInput:
    """One finished crawl batch.

    Attributes:
        name: of the batch.
        rows: token rows.
        provenance: schema metadata of its token rows.
        steps: its funnel.
        records: its funnel with hashes, as in the manifest.
    """

    name: str
    rows: int
    provenance: Mapping[str, str]
    steps: list[Step]
    records: tuple[StageRecord, ...]


def read_input(layout: Layout, name: str) -> BatchInput:
    """One batch, if all its stages are finished and its tokens are of its present pairs.

    Raises:
        FileNotFoundError: if a stage is not finished.
        LedgerError: if rows were lost between two stages.
        ValueError: if the pairs changed since they were encoded.
    """
    done = {dataset: ledger.require_success(layout.dataset(dataset, name)) for _, dataset in FLOW}
    tokens = done["token_grids"]
    if tokens.details["deduped_pairs"] != done["deduped_pairs"].content:
        raise ValueError(
            f"batch {name}: deduped_pairs changed since it was encoded; "
            "materialise token_grids again"
        )
    steps = funnel(layout, name)
    return BatchInput(
        name=name,
        rows=tokens.rows,
        provenance=tokens.details["provenance"],
        steps=steps,
        records=tuple(_record(name, step, done[step.dataset]) for step in steps),
    )


def _record(batch: str, step: Step, done: Finished) -> StageRecord:
    return StageRecord(
        batch=batch,
        stage=str(step.stage),
        dataset=step.dataset,
        fingerprint=done.fingerprint,
        content=done.content,
        rows_in=step.funnel.rows_in,
        kept=step.funnel.kept,
        dropped=dict(step.funnel.dropped),
    )


def agreed_provenance(inputs: Sequence[BatchInput]) -> Mapping[str, str]:
    """The provenance that all batches share.

    Raises:
        ValueError: naming what differs, and in which two batches.
    """
    first = inputs[0]
    for other in inputs[1:]:
        for key in sorted({*first.provenance, *other.provenance}):
            ours, theirs = first.provenance.get(key), other.provenance.get(key)
            if ours != theirs:
                raise ValueError(
                    f"token_grids of batch {first.name} and batch {other.name} differ in {key} "
                    f"({ours} and {theirs}); materialise token_grids of both again"
                )
    return first.provenance


def token_rows(layout: Layout, batch: str, read_rows: int) -> Iterator[pa.RecordBatch]:
    """Token rows with the columns of the metadata table beside them.

    Memory holds the metadata of one shard. Encoding keeps shards and their order, so the i-th
    shard of the tokens is of the i-th shard of the pairs.

    Raises:
        ValueError: if a token row has no pair.
    """
    token_shards = storage.list_files(layout.dataset("token_grids", batch), ".parquet")
    pair_shards = storage.list_files(layout.dataset("deduped_pairs", batch), ".parquet")
    for token_shard, pair_shard in zip(token_shards, pair_shards, strict=True):
        pair_batches = list(parquet.read_batches(pair_shard, columns=_PAIR_COLUMNS))
        if not pair_batches:
            continue
        pairs = pa.Table.from_batches(pair_batches).combine_chunks()
        for tokens in parquet.read_batches(token_shard, rows=read_rows):
            yield _joined(tokens, pairs, batch, token_shard)


def _joined(
    tokens: pa.RecordBatch, pairs: pa.Table, batch: str, token_shard: str
) -> pa.RecordBatch:
    index = pc.index_in(tokens.column("uid"), value_set=pairs.column("uid"))
    if index.null_count:
        raise ValueError(
            f"{token_shard} has {index.null_count} rows whose uid is not in deduped_pairs; "
            "materialise token_grids again"
        )
    described = pairs.take(index).combine_chunks().to_batches()[0]
    for name in described.schema.names:
        if name not in tokens.schema.names:
            tokens = tokens.append_column(name, described.column(name))
    crawl_batch = pa.array([batch] * tokens.num_rows, pa.string())
    return tokens.append_column("crawl_batch", crawl_batch)
