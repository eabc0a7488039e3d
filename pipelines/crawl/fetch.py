"""The bytes of a batch: every candidate's URL fetched once, each with one terminal outcome.

A part of the candidates is one element of the Beam pipeline and one shard of img2dataset, whose
worker asks with our own request (`img2dataset_shard`) and hands every answer to the part's ledger
(`fetch_ledger`). So a killed run goes on URL by URL. The finished parts are the memory of later
runs: what is `ok` or final stays, and only failures that may pass are tried again.

Also a command: `python -m pipelines.crawl.fetch --help`.
"""

import contextlib
import functools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from pipelines import code_versions, ledger, shards, storage
from pipelines.crawl.config import FetchConfig
from pipelines.crawl.consent.takedown import read_takedown
from pipelines.crawl.fetch_inputs import file_sha256
from pipelines.crawl.fetch_ledger import make_private, work_directory
from pipelines.crawl.fetch_part import OUTPUT_ROWS, PartReader, Policy
from pipelines.crawl.http.outcomes import Outcome
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.locks import FileLock
from pipelines.runners import Engine
from pipelines.schemas import FETCHED_PAIRS, Stage
from pipelines.shards import Processed, Processor, ShardStage, StreamProcessor, rejected

DATASET = "fetched_pairs"
_PARTS_TOGETHER = 8  # only the last of them is written while nothing is fetched
_LOCK = "lock"
_TEMPORARY = "tmp"
_CONTENT = ("uid", "outcome", "image_sha256")
# Images are compressed already, and nobody looks for one between two others.
_PLAIN = [name for name in FETCHED_PAIRS.names if name != "image"]
_WRITER_OPTIONS = (
    ("row_group_rows", OUTPUT_ROWS),
    ("compression", dict.fromkeys(_PLAIN, "zstd") | {"image": "none"}),
    ("use_dictionary", _PLAIN),
    ("write_statistics", _PLAIN),
)


class _FetchStage(ShardStage):
    """Writes a part while the next one is fetched; at most two are held.

    A part's earlier rows are read before its file is opened to be written over. When one cannot be
    written, its ledger stays for the next run, and so does that of the part behind it.
    """

    def process_shards(
        self, tasks: Sequence[tuple[int, str]], processor: Processor | StreamProcessor
    ) -> None:
        assert isinstance(self.read, PartReader)
        assert not isinstance(processor, StreamProcessor)
        with ThreadPoolExecutor(1, "write") as writer:
            writing: Future[None] | None = None
            for index, shard in tasks:
                self.read.begin(shard)
                try:
                    self.read.fetch(shard)
                    if writing is not None:
                        writing.result()
                except BaseException:
                    self.read.failed(shard)
                    raise
                writing = writer.submit(self._write, index, shard, processor)
            if writing is not None:
                writing.result()

    def _write(self, index: int, shard: str, processor: Processor) -> None:
        assert isinstance(self.read, PartReader)
        try:
            self.process_shard(index, shard, processor)
        except BaseException:
            self.read.failed(shard)
            raise


def fetch_pairs(batch: str, layout: Layout, config: FetchConfig, engine: Engine) -> Finished:
    """Write `fetched_pairs` of one crawl batch of a data root.

    Raises:
        FileNotFoundError: if the batch's candidates are not finished.
        As `fetch_parts`.
    """
    source = layout.dataset("image_text_candidates", batch)
    upstream = ledger.require_parts(source)
    return fetch_parts(
        storage.list_files(source, ".parquet"),
        upstream.content,
        layout.dataset(DATASET, batch),
        layout.rejects(f"{Stage.CRAWL}_fetch", batch),
        config,
        engine,
    )


def fetch_parts(
    parts: Sequence[str],
    content: str,
    output: str,
    rejects: str,
    config: FetchConfig,
    engine: Engine,
) -> Finished:
    """Write `fetched_pairs` of some parts of candidates.

    Rows whose fetch failed stay in the dataset, without an image; the funnel counts them as
    dropped, by outcome, and the rejects list them. If the dataset is finished already, the parts
    that hold retryable rows are done again, and of these only the retryable rows. Settings that
    decide about outcomes have every failure tried again; others, such as speed, have nothing.

    Args:
        parts: Parquet files with uid, url and caption_raw; all rows of one URL are in one.
        content: hash of their content.
        output: directory of the dataset.
        rejects: directory of the rows without an image.
        config: of this stage.
        engine: the Beam engine to run on.

    Raises:
        InUseError: if another process on this machine is fetching into `output`.
        ValueError: if the takedown list cannot be read.
        RuntimeError: if img2dataset is not the version that the seam was made for.
    """
    policy = _policy(config)
    reader = PartReader(config, policy, output, parts)
    stage = _FetchStage(
        dataset=DATASET,
        schema=FETCHED_PAIRS.with_metadata({**FETCHED_PAIRS.metadata, **policy.metadata}),
        processor=_counting,
        output=output,
        rejects=rejects,
        fingerprint=ledger.fingerprint(
            code_versions.FETCH, [*policy, config.max_attempts], [content]
        ),
        read=reader,
        writer_options=_WRITER_OPTIONS,
        content_columns=_CONTENT,
        summarise=functools.partial(_figures, output),
        figures=reader.figures,
        ended=reader.ended,
        shards_together=_parts_together(len(parts), config.http.processes),
    )
    work = work_directory(output)
    with _alone(output, work), _own_temporary(output, work):
        done = ledger.read_success(output)
        if done is not None:
            # Ledgers of a process that was killed after it wrote the marker.
            _remove_all(work)
            whole = ledger.is_whole(output, done) and not done.details["retryable"]
            if whole and done.fingerprint == stage.fingerprint:
                return done
        _forget_receipts(stage, with_retryable=done is not None)
        storage.remove(join(output, ledger.SUCCESS))
        finished = stage.run(parts, engine)
        _remove_all(work)
        return finished


def _parts_together(parts: int, processes: int) -> int:
    """Parts that one worker takes at once; no process is left without some."""
    return max(1, min(_PARTS_TOGETHER, parts // processes))


@contextlib.contextmanager
def _alone(output: str, work: str) -> Iterator[None]:
    """Keep other processes of this machine from fetching into `output`."""
    make_private(work)
    taken = f"another process is fetching into {output}: wait until it ends, or stop it"
    lock = FileLock(os.path.join(work, _LOCK), taken)
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # it holds the ledgers of an unfinished run
            os.rmdir(work)


@contextlib.contextmanager
def _own_temporary(output: str, work: str) -> Iterator[None]:
    """Have temporary files made in `work`, where the next run finds those of one that was killed.

    Beam makes a directory for each pipeline, and wandb, which img2dataset imports, two for each
    process. Not for a remote output: its `work` is found by where temporary files are.
    """
    if not isinstance(storage.filesystem(output)[0], LocalFileSystem):
        yield
        return
    directory = os.path.join(work, _TEMPORARY)
    shutil.rmtree(directory, ignore_errors=True)
    make_private(directory)
    before, said = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = directory  # the second is for worker processes
    try:
        yield
    finally:
        tempfile.tempdir = before
        del os.environ["TMPDIR"]
        if said is not None:
            os.environ["TMPDIR"] = said
        shutil.rmtree(directory, ignore_errors=True)


def _remove_all(work: str) -> None:
    for entry in os.scandir(work):
        if entry.name == _TEMPORARY:
            continue
        if entry.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name != _LOCK:
            os.unlink(entry.path)


def _forget_receipts(stage: ShardStage, *, with_retryable: bool) -> None:
    """Remove the receipts of the parts that are to be done again."""
    for url, receipt in shards.read_receipts(stage.output).items():
        other = receipt.get("fingerprint") != stage.fingerprint
        if other or (with_retryable and receipt.get("retryable", 1)):
            storage.remove(url)


def _policy(config: FetchConfig) -> Policy:
    """What decides about outcomes; not what only decides how fast they come."""
    http = config.http
    settings = {
        "agent": http.agent,
        "max_bytes": http.max_bytes,
        "max_redirects": http.max_redirects,
        "ports": sorted(http.ports),
        "allow_networks": sorted(http.allow_networks),
        "authorities": None if http.ca_file is None else file_sha256(http.ca_file),
    }
    takedown = read_takedown(config.takedown).sha256
    return Policy(ledger.fingerprint(code_versions.FETCH, settings, []), takedown)


def _counting() -> Processor:
    return _count


def _count(batch: pa.RecordBatch) -> Processed:
    """Keep every row; the rejects repeat those without an image, and the funnel counts them."""
    failed = batch.filter(pc.is_null(batch.column("image")))
    reasons = failed.column("outcome").to_pylist()
    rejects = rejected(failed, Stage.CRAWL, reasons, failed.column("detail").to_pylist())
    place = rejects.schema.get_field_index("retryable")
    rejects = rejects.set_column(place, rejects.schema.field(place), failed.column("retryable"))
    outcomes = Counter(batch.column("outcome").to_pylist())
    kept = outcomes.pop(str(Outcome.OK), 0)
    funnel = Funnel(batch.num_rows, kept, dict(sorted(outcomes.items())))
    return Processed(batch, rejects, funnel)


def _figures(output: str, _parts: list[str]) -> dict[str, Any]:
    """Of the whole dataset; the rate is over the time in which any worker was at work."""
    receipts = shards.read_receipts(output).values()
    figures = [receipt["figures"] for receipt in receipts]
    sums = {name: sum(f[name] for f in figures) for name in ("urls", "images", "image_bytes")}
    spans = sorted((f["span"] for f in figures if f["span"]), key=lambda span: span["started"])
    seconds, end = 0.0, 0.0
    for span in spans:
        seconds += max(0.0, span["ended"] - max(span["started"], end))
        end = max(end, span["ended"])
    rate = round(sum(span["images"] for span in spans) / seconds, 1) if seconds else None
    retryable = sum(receipt["retryable"] for receipt in receipts)
    return sums | {"images_per_second": rate, "retryable": retryable}


def outcome_table(directory: str) -> list[dict[str, Any]]:
    """The rows of `fetched_pairs` by outcome, the most frequent first; of its finished parts.

    Each has `outcome`, `rows`, `retryable` (rows for which another try makes sense) and `example`,
    the address and detail of one of them, or None. Reads the parts' receipts only.
    """
    table: dict[str, dict[str, Any]] = {}
    for _, receipt in sorted(shards.read_receipts(directory).items()):
        for outcome, found in receipt["figures"]["outcomes"].items():
            row = table.setdefault(outcome, {"rows": 0, "retryable": 0, "example": None})
            row["rows"] += found["rows"]
            row["retryable"] += found["retryable"]
            row["example"] = row["example"] or found["example"]
    by_rows = sorted(table.items(), key=lambda item: (-item[1]["rows"], item[0]))
    return [{"outcome": outcome} | row for outcome, row in by_rows]


if __name__ == "__main__":
    from pipelines.crawl.fetch_cli import main

    main()
