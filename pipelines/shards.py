"""One Beam pipeline for every stage that maps shards to shards.

An element names one input shard or a few: small, so that any engine can spread it. A worker
streams the shard as record batches through the stage's `Processor` and writes a part of kept rows,
a part of rejects and, last, a receipt with the counts. A shard with a receipt of the same
fingerprint is not read again, so a killed run goes on where it stopped. Counts come from the
receipts, not from runner metrics, and there are neither tagged outputs nor `finish_bundle`: some
engines lose both without a word.
"""

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import ledger, parquet, schemas, storage
from pipelines.layout import join
from pipelines.ledger import Finished, Funnel
from pipelines.places import refuse_other_data
from pipelines.runners import Engine

_RECEIPTS = "_receipts"
log = logging.getLogger(__name__)


class Processed(NamedTuple):
    """What became of a batch: kept rows in the dataset's columns, the others as rejects.

    `funnel` is given where rows stay in the dataset although they count as dropped, or where a
    row that is kept gives several; it counts the rows that came in.
    """

    kept: pa.RecordBatch
    rejects: pa.RecordBatch
    funnel: Funnel | None = None


class Processor(Protocol):
    """A stage's work on one batch of rows."""

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Give every row of `batch` one terminal outcome."""


class ShardRows(NamedTuple):
    """What became of a batch of `rows_in` rows of a shard, named by its number."""

    shard: int
    rows_in: int
    result: Processed


@runtime_checkable
class StreamProcessor(Protocol):
    """A stage's work on the rows of several shards, which may look ahead of what it gives."""

    def stream(self, batches: Iterator[tuple[int, pa.RecordBatch]]) -> Iterator[ShardRows]:
        """Give every row of batches (shard, rows) one terminal outcome, in their order."""


@dataclass(frozen=True)
class ShardStage:
    """A stage that maps input shards to output shards, row by row.

    Attributes:
        dataset: name of the dataset that is written.
        schema: its schema, provenance in the metadata.
        processor: makes the worker's `Processor` or `StreamProcessor`, once per worker; must be
            picklable.
        output: directory of the dataset.
        rejects: directory of the rejects.
        fingerprint: of everything the output depends on (`ledger.fingerprint`).
        batch_rows: rows handed to the processor at once (16,000 for text, 32-128 for images).
        read: how to read an input shard as record batches; Parquet unless said otherwise.
        writer_options: further options of the Parquet writer.
        content_columns: columns that `Finished.content` covers, where the files hold others (times)
            that differ between equal runs; the files' bytes unless said otherwise.
        summarise: figures for the marker, from the URLs of the finished parts.
        figures: figures for a shard's receipt, asked for when its files are written.
        ended: told of a shard when its receipt is written, so that work files may go.
        shards_together: shards that a `StreamProcessor` gets at once. It changes no byte.
    """

    dataset: str
    schema: pa.Schema
    processor: Callable[[], Processor | StreamProcessor]
    output: str
    rejects: str
    fingerprint: str
    batch_rows: int = 4096
    read: Callable[[str, int], Iterable[pa.RecordBatch]] | None = None
    writer_options: tuple[tuple[str, Any], ...] = ()
    content_columns: tuple[str, ...] = ()
    summarise: Callable[[list[str]], Mapping[str, Any]] | None = None
    figures: Callable[[str], Mapping[str, Any]] | None = None
    ended: Callable[[str], None] | None = None
    shards_together: int = 1

    def __getstate__(self) -> dict[str, Any]:
        # pyarrow's own pickle forgets that the values of a fixed-size list are not null.
        return vars(self) | {"schema": self.schema.serialize().to_pybytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, schema=pa.ipc.read_schema(pa.py_buffer(state["schema"])))

    def run(self, inputs: Sequence[str], engine: Engine, **details: Any) -> Finished:
        """Process every input shard and write the success marker.

        Args:
            inputs: input shards; shard i becomes `part-i.parquet`.
            engine: the Beam engine to run on.
            details: figures of the stage's own, for the marker.

        Returns:
            What the marker says: an earlier run's, if that is finished and nothing changed.
        """
        refuse_other_data(self.output, self.dataset)
        done = ledger.read_success(self.output)
        whole = done is not None and ledger.is_whole(self.output, done)
        if done is not None and done.fingerprint == self.fingerprint and whole:
            log.info("%s is up to date", self.output)
            return done
        storage.remove(join(self.output, ledger.SUCCESS))
        sizes = storage.sizes(self.output, ".parquet")
        tasks = [(i, shard) for i, shard in enumerate(inputs) if not self._is_done(i, sizes)]
        if tasks:
            self._run_tasks(tasks, engine)
        return self._finish(len(inputs), details)

    def _run_tasks(self, tasks: list[tuple[int, str]], engine: Engine) -> None:
        import apache_beam as beam

        count = self.shards_together
        together = [tuple(tasks[i : i + count]) for i in range(0, len(tasks), count)]
        with engine.pipeline() as pipeline:
            _ = (
                pipeline
                | "shards" >> beam.Create(together)
                | "spread" >> beam.Reshuffle()
                | self.dataset >> beam.ParDo(_shard_do_fn(self))
            )

    def process_shards(
        self, tasks: Sequence[tuple[int, str]], processor: Processor | StreamProcessor
    ) -> None:
        """Stream shards through `processor`; write each one's part, rejects and receipt."""
        if not isinstance(processor, StreamProcessor):
            for index, shard in tasks:
                self.process_shard(index, shard, processor)
            return
        batches = ((index, batch) for index, shard in tasks for batch in self._batches(shard))
        groups = itertools.groupby(processor.stream(batches), key=lambda rows: rows.shard)
        found, results = next(groups, (None, None))
        for index, shard in tasks:
            # A shard without rows gives no group.
            self._write_shard(index, shard, results if results and found == index else ())
            if found == index:
                found, results = next(groups, (None, None))

    def process_shard(self, index: int, shard: str, processor: Processor) -> None:
        """Stream one shard through `processor` and write its part, rejects and receipt."""
        results = (ShardRows(index, b.num_rows, processor(b)) for b in self._batches(shard))
        self._write_shard(index, shard, results)

    def _batches(self, shard: str) -> Iterable[pa.RecordBatch]:
        return (self.read or _read_parquet)(shard, self.batch_rows)

    def _write_shard(self, index: int, shard: str, results: Iterable[ShardRows]) -> None:
        rejects: list[pa.RecordBatch] = []
        funnel = Funnel()

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal funnel
            for _, rows_in, result in results:
                reasons = result.rejects.column("reason").to_pylist()
                counts = {r: reasons.count(r) for r in sorted(set(reasons))}
                step = result.funnel or Funnel(rows_in, result.kept.num_rows, counts)
                step.check(shard)
                if step.rows_in != rows_in:
                    raise ledger.LedgerError(
                        f"{shard}: {rows_in} rows read, but {step.rows_in} accounted for"
                    )
                funnel = funnel + step
                rejects.append(result.rejects)
                yield result.kept

        # An older receipt must not vouch for the bytes that are about to replace its own.
        storage.remove(self._receipt_url(index))
        name = _part(index)
        options = dict(self.writer_options)
        written = parquet.write(join(self.output, name), kept(), self.schema, **options)
        dropped = parquet.write(join(self.rejects, name), rejects, schemas.REJECTS)
        content = written.sha256
        if self.content_columns:
            content = parquet.column_hash(join(self.output, name), self.content_columns)
        storage.write_json(
            self._receipt_url(index),
            {
                "fingerprint": self.fingerprint,
                "funnel": dataclasses.asdict(funnel),
                "files": {name: dataclasses.asdict(written) | {"content": content}},
                "rejects": dataclasses.asdict(dropped),
                "retryable": sum(pc.sum(b.column("retryable")).as_py() or 0 for b in rejects),
                "figures": {} if self.figures is None else dict(self.figures(shard)),
            },
        )
        if self.ended is not None:
            self.ended(shard)

    def _receipt_url(self, index: int) -> str:
        return join(self.output, _RECEIPTS, f"{_part(index)}.json")

    def _receipt(self, index: int) -> dict[str, Any] | None:
        try:
            receipt: dict[str, Any] = storage.read_json(self._receipt_url(index))
        except (FileNotFoundError, ValueError):
            return None
        fits = isinstance(receipt, dict) and receipt.get("fingerprint") == self.fingerprint
        return receipt if fits else None

    def _is_done(self, index: int, sizes: Mapping[str, int]) -> bool:
        receipt = self._receipt(index)
        if receipt is None:
            return False
        return all(sizes.get(name) == file["bytes"] for name, file in receipt["files"].items())

    def _finish(self, shards: int, details: dict[str, Any]) -> Finished:
        funnel = Funnel()
        files: dict[str, dict[str, Any]] = {}
        for index in range(shards):
            receipt = self._receipt(index)
            if receipt is None:
                raise ledger.LedgerError(f"{self.dataset}: shard {index} left no receipt")
            funnel = funnel + Funnel(**receipt["funnel"])
            files |= receipt["files"]
        for directory in (self.output, self.rejects):
            for url in storage.list_files(directory, ".parquet"):
                if url.rsplit("/", 1)[1] not in files:
                    storage.remove(url)
        for directory in (self.output, self.rejects, join(self.output, _RECEIPTS)):
            _remove_unfinished(directory)
        receipts = {self._receipt_url(index) for index in range(shards)}
        for url in storage.list_files(join(self.output, _RECEIPTS), ".json"):
            if url not in receipts:
                storage.remove(url)
        if self.summarise is not None:
            details = details | dict(self.summarise([join(self.output, n) for n in sorted(files)]))
        finished = Finished(
            dataset=self.dataset,
            fingerprint=self.fingerprint,
            content=ledger.content_hash({name: f["content"] for name, f in files.items()}),
            rows=sum(f["rows"] for f in files.values()),
            bytes=sum(f["bytes"] for f in files.values()),
            funnel=funnel,
            details=details,
        )
        ledger.write_success(self.output, finished)
        return finished


def read_receipts(output: str) -> dict[str, dict[str, Any]]:
    """The receipts of a dataset's finished parts, by URL; also while others are being written.

    Each has `fingerprint`, `funnel`, `files`, `rejects`, `retryable` (rejected rows for which
    another try makes sense) and `figures` (the stage's own).
    """
    found = {}
    for url in storage.list_files(join(output, _RECEIPTS), ".json"):
        # One that is replaced or broken counts as not there, as it does for the stage.
        with contextlib.suppress(FileNotFoundError, ValueError):
            receipt = storage.read_json(url)
            if isinstance(receipt, dict) and "funnel" in receipt:
                found[url] = receipt
    return found


def _remove_unfinished(directory: str) -> None:
    """Remove what killed processes were writing, by the names that `storage` gives such files."""
    fs, path = storage.filesystem(directory)
    for found in fs.glob(f"{path}/.*.tmp"):
        fs.rm(found)


def _part(index: int) -> str:
    return f"part-{index:05d}.parquet"


def _read_parquet(url: str, rows: int) -> Iterator[pa.RecordBatch]:
    return parquet.read_batches(url, rows=rows)


def _shard_do_fn(stage: ShardStage) -> Any:
    import apache_beam as beam

    class ProcessShard(beam.DoFn):
        def setup(self) -> None:
            self._processor = stage.processor()

        def process(self, element: tuple[tuple[int, str], ...]) -> None:
            stage.process_shards(element, self._processor)

    return ProcessShard()


def rejected(
    rows: pa.RecordBatch | pa.Table,
    stage: schemas.Stage,
    reasons: Sequence[str],
    details: Sequence[str | None] | None = None,
    images: Sequence[bytes | None] | None = None,
    retryable: bool = False,
) -> pa.RecordBatch:
    """Rows as `rejects`: `rows` needs the column uid, and may have url and caption_raw."""
    count = rows.num_rows
    names = rows.schema.names

    def column(name: str) -> Any:
        if name not in names:
            return [None] * count
        found = rows.column(name)
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    arrays = [
        column("uid"),
        column("url"),
        column("caption_raw"),
        [str(stage)] * count,
        list(reasons),
        [None] * count if details is None else list(details),
        [retryable] * count,
        [None] * count if images is None else list(images),
    ]
    typed = [
        a.cast(f.type) if isinstance(a, pa.Array) else pa.array(a, f.type)
        for a, f in zip(arrays, schemas.REJECTS, strict=True)
    ]
    return pa.RecordBatch.from_arrays(typed, schema=schemas.REJECTS)
