"""Candidates of a crawl batch: every source read, broken rows and repeats told apart.

Two passes over shards. The first reads the sources and writes what it finds, so that a killed run
does not ask servers again. The second gathers all rows of one URL in one part, by the URL's hash,
keeps the first of equal (url, caption) pairs and rejects the others: memory holds one part.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import ledger, parquet, schemas, storage
from pipelines.crawl import pages, url_lists
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, read_batch
from pipelines.crawl.config import CandidatesConfig
from pipelines.crawl.found import FOUND, FoundRow, Problem, to_batches
from pipelines.crawl.http_fetch import HttpClient
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.runners import Engine
from pipelines.schemas import IMAGE_TEXT_CANDIDATES, Stage
from pipelines.shards import Processed, Processor, ShardStage, rejected

DATASET = "image_text_candidates"
_CODE_VERSION = "1"
_READ_ROWS = 16_000
_CONTENT = ("uid", "url", "page_url", "caption_raw", "source", "snapshot")
_ORDER = [(name, "ascending") for name in ("url", "uid", "source", "page_url", "problem", "detail")]


def extract_candidates(
    batch: str, layout: Layout, config: CandidatesConfig, engine: Engine
) -> Finished:
    """Write `image_text_candidates` of one crawl batch.

    Raises:
        FileNotFoundError: if the batch or one of its files is not there.
        ValueError: if the batch or one of its lists cannot be read.
        pages.SitemapError: if a sitemap gives no pages.
    """
    crawl = read_batch(batch, layout)
    output = layout.dataset(DATASET, batch)
    fingerprint = ledger.fingerprint(_CODE_VERSION, config, [_described(crawl)])
    done = ledger.read_success(output)
    if done is not None and done.fingerprint == fingerprint:
        return done
    found = join(output, "_found")
    shards = _plan(crawl, config, join(found, "_plan.json"), fingerprint)
    reading = ShardStage(
        dataset="found",
        schema=FOUND,
        processor=_keeping,
        output=found,
        rejects=join(found, "_rejects"),
        fingerprint=fingerprint,
        batch_rows=_READ_ROWS,
        read=_Reader(config),
    ).run(shards, engine)
    parts = max(1, -(-reading.rows // config.rows_per_part))
    gathering = ShardStage(
        dataset=DATASET,
        schema=IMAGE_TEXT_CANDIDATES,
        processor=_splitting,
        output=output,
        rejects=layout.rejects(Stage.CRAWL, batch),
        fingerprint=fingerprint,
        read=functools.partial(_read_bucket, storage.list_files(found, ".parquet"), parts),
        content_columns=_CONTENT,
    )
    finished = gathering.run([str(bucket) for bucket in range(parts)], engine, sources=len(shards))
    storage.remove(found, recursive=True)
    return finished


def _described(crawl: CrawlBatch) -> str:
    """The batch, and size and time of its lists: web sources are read once."""
    files = []
    for source in crawl.sources:
        if source.kind is not SourceKind.URL_LIST:
            continue
        for path in source.paths:
            fs, inside = storage.filesystem(path)
            try:
                info = fs.info(inside)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"source {source.name!r} of batch {crawl.name!r}: {path} is not there"
                ) from error
            stamp = next((str(info[k]) for k in ("ETag", "md5Hash", "mtime") if k in info), "")
            files.append([path, info.get("size"), stamp])
    return json.dumps([dataclasses.asdict(crawl), files], sort_keys=True)


def _plan(crawl: CrawlBatch, config: CandidatesConfig, url: str, fingerprint: str) -> list[str]:
    """Input shards as JSON texts; kept, so that a resumed run has the same ones."""
    try:
        plan = storage.read_json(url)
        if plan["fingerprint"] == fingerprint:
            return list(plan["shards"])
    except FileNotFoundError:
        pass
    client = HttpClient(config.http)
    shards = []
    for source in crawl.sources:
        items: list[Any] = list(source.paths)
        size = config.pages_per_shard
        if source.kind is SourceKind.URL_LIST:
            size = 1
        elif source.kind is SourceKind.SITEMAP:
            items = [page for at in items for page in pages.sitemap_pages(at, client)]
        elif source.kind is SourceKind.HTML_FILES:
            items = list(pages.html_files(source))
        for start in range(0, len(items), size):
            shard = {"source": dataclasses.asdict(source), "items": items[start : start + size]}
            shards.append(json.dumps(shard, sort_keys=True))
    # A fresh reading: parts gathered from an earlier one would not fit to it.
    storage.remove(join(url.rsplit("/", 2)[0], "_receipts"), recursive=True)
    storage.write_json(url, {"fingerprint": fingerprint, "shards": shards})
    return shards


class _Reader:
    """Reads a shard of any kind; its HTTP client is made in the worker, once."""

    def __init__(self, config: CandidatesConfig):
        self._config = config

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config}

    @functools.cached_property
    def _client(self) -> HttpClient:
        return HttpClient(self._config.http)

    def __call__(self, shard: str, rows: int) -> Iterator[pa.RecordBatch]:
        task = json.loads(shard)
        source = Source.from_json(task["source"])
        found = (row for item in task["items"] for row in self._rows(item, source))
        yield from to_batches(found, source.name, source.snapshot, rows)

    def _rows(self, item: Any, source: Source) -> Iterator[FoundRow]:
        if source.kind == SourceKind.URL_LIST:
            return url_lists.read_list(item, source)
        if source.kind == SourceKind.HTML_FILES:
            return pages.read_html_file(*item)
        return pages.read_web_page(item, self._client)


def _keeping() -> Processor:
    return _keep_all


def _keep_all(batch: pa.RecordBatch) -> Processed:
    return Processed(batch, pa.RecordBatch.from_pylist([], schema=schemas.REJECTS))


def _read_bucket(found: list[str], parts: int, bucket: str, _rows: int) -> Iterator[pa.RecordBatch]:
    """All rows of the URLs of one bucket, sorted, so that equal pairs are neighbours."""
    rows = []
    for url in found:
        for batch in parquet.read_batches(url, rows=_READ_ROWS):
            hashes = batch.column("url_hash").to_numpy()
            rows.append(batch.filter(pa.array(hashes % parts == int(bucket))))
    table = pa.Table.from_batches(rows, schema=FOUND).sort_by(_ORDER)
    yield from table.combine_chunks().to_batches()


def _splitting() -> Processor:
    return _split


def _split(batch: pa.RecordBatch) -> Processed:
    """Keep the first of equal uids without a problem; `batch` holds all rows of its URLs."""
    uids = batch.column("uid").to_pylist()
    reasons: list[str | None] = batch.column("problem").to_pylist()
    seen: set[bytes] = set()
    for row, uid in enumerate(uids):
        if reasons[row] is None:
            if uid in seen:
                reasons[row] = Problem.REPEAT
            seen.add(uid)
    column = pa.array(reasons, pa.string())
    dropped = batch.filter(pc.is_valid(column))
    rejects = rejected(
        dropped,
        Stage.CRAWL,
        [reason for reason in reasons if reason is not None],
        dropped.column("detail").to_pylist(),
    )
    kept = batch.filter(pc.is_null(column)).select(IMAGE_TEXT_CANDIDATES.names)
    return Processed(kept, rejects)
