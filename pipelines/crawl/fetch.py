"""The bytes of a batch: every candidate's URL fetched once, each with one terminal outcome.

A part of the candidates is one element of the Beam pipeline and one shard of img2dataset, which
runs inside the worker with our own request (`img2dataset_shard`). A part with a receipt is not
fetched again.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from pipelines import ledger, parquet, storage
from pipelines.crawl.config import FetchConfig
from pipelines.crawl.http_fetch import HttpClient, sniff_image
from pipelines.crawl.img2dataset_shard import Fetched, fetch_shard, load_downloader
from pipelines.crawl.outcomes import Outcome
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine
from pipelines.schemas import FETCHED_PAIRS, Stage
from pipelines.shards import Processed, Processor, ShardStage, rejected

DATASET = "fetched_pairs"
_CODE_VERSION = "1"
_OUTPUT_ROWS = 64
_CONTENT = ("uid", "outcome", "image_sha256")


def fetch_pairs(batch: str, layout: Layout, config: FetchConfig, engine: Engine) -> Finished:
    """Write `fetched_pairs` of one crawl batch.

    Rows whose fetch failed stay in the dataset, without an image; the funnel counts them as
    dropped, by outcome, and `layout.rejects("crawl_fetch", batch)` lists them.

    Raises:
        FileNotFoundError: if the batch's candidates are not finished.
        RuntimeError: if img2dataset is not the version that the seam was made for.
    """
    source = layout.dataset("image_text_candidates", batch)
    upstream = ledger.require_success(source)
    output = layout.dataset(DATASET, batch)
    work = join(output, "_work")
    stage = ShardStage(
        dataset=DATASET,
        schema=FETCHED_PAIRS,
        processor=_counting,
        output=output,
        rejects=layout.rejects(f"{Stage.CRAWL}_fetch", batch),
        fingerprint=ledger.fingerprint(_CODE_VERSION, config, [upstream.content]),
        read=_Reader(config, work),
        writer_options=(("row_group_rows", _OUTPUT_ROWS),),
        content_columns=_CONTENT,
        summarise=_figures,
    )
    finished = stage.run(storage.list_files(source, ".parquet"), engine)
    storage.remove(work, recursive=True)
    return finished


class _Reader:
    """Reads a part of the candidates as fetched pairs; client and worker are made once."""

    def __init__(self, config: FetchConfig, work: str):
        self._config = config
        self._work = work

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config, "_work": self._work}

    @functools.cached_property
    def _client(self) -> HttpClient:
        return HttpClient(self._config.http)

    @functools.cached_property
    def _downloader(self) -> Any:
        return load_downloader()

    def __call__(self, part: str, _rows: int) -> Iterator[pa.RecordBatch]:
        columns = ["uid", "url", "caption_raw"]
        batches = parquet.read_batches(part, columns=columns)
        pairs = sorted((row for b in batches for row in b.to_pylist()), key=_by_url)
        urls = list(dict.fromkeys(row["url"] for row in pairs))
        with _work_directory(self._work, part) as directory:
            results = fetch_shard(
                self._downloader,
                urls,
                lambda url: self._client.get(url, sniff_image, Outcome.NOT_AN_IMAGE),
                self._config.concurrency,
                directory,
            )
            yield from _join(pairs, urls, results)


@contextlib.contextmanager
def _work_directory(work: str, part: str) -> Iterator[str]:
    """An empty local directory, removed with the block; what a killed run left there is gone."""
    fs, path = storage.filesystem(work)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory(prefix="fetch-") as directory:
            yield directory
        return
    directory = os.path.join(path, part.rsplit("/", 1)[1])
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _by_url(row: dict[str, Any]) -> tuple[str, bytes]:
    return row["url"], row["uid"]


def _join(
    pairs: list[dict[str, Any]], urls: list[str], results: Iterator[Fetched]
) -> Iterator[pa.RecordBatch]:
    """Every pair with its URL's result; both are in the order of the URLs."""
    rows: list[dict[str, Any]] = []
    waiting = iter(pairs)
    pair = next(waiting, None)
    for url, result in zip(urls, results, strict=True):
        columns = _columns(result)
        while pair is not None and pair["url"] == url:
            rows.append(pair | columns)
            pair = next(waiting, None)
            if len(rows) == _OUTPUT_ROWS:
                yield pa.RecordBatch.from_pylist(rows, schema=FETCHED_PAIRS)
                rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=FETCHED_PAIRS)


def _columns(result: Fetched) -> dict[str, Any]:
    response, image = result
    signal, text = response.opt_out or (None, None)
    return {
        "outcome": str(response.outcome),
        "detail": response.detail,
        "http_status": response.status,
        "mime": response.mime,
        "bytes": None if image is None else len(image),
        "fetched_at": response.ended_at,
        "attempts": response.attempts,
        "retryable": response.outcome.retryable,
        "opt_out_signal": signal,
        "opt_out_text": text,
        "image": image,
        "image_sha256": None if image is None else hashlib.sha256(image).digest(),
    }


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


def _figures(parts: list[str]) -> dict[str, Any]:
    """URLs tried, bytes received and images a second, over the parts' own times."""
    urls = images = size = 0
    seconds = 0.0
    for part in parts:
        columns = ["url", "bytes", "fetched_at"]
        batches = list(parquet.read_batches(part, columns=columns))
        if not batches:
            continue
        table = pa.Table.from_batches(batches)
        first = table.group_by("url").aggregate([("bytes", "max")]).column("bytes_max")
        urls += len(first)
        images += len(first) - first.null_count
        size += pc.sum(first).as_py() or 0
        span = pc.min_max(table.column("fetched_at")).as_py()
        seconds += (span["max"] - span["min"]).total_seconds()
    rate = round(images / seconds, 1) if seconds else None
    return {"urls": urls, "images": images, "image_bytes": size, "images_per_second": rate}
