"""Candidates of a crawl batch: every source read, broken rows and repeats told apart.

Two passes over shards. The first reads the sources and writes what it finds, sorted by the hash of
the URL in runs of bounded size, so that a killed run does not ask servers again. The second gathers
all rows of one URL in one part, keeps the first of equal (url, caption) pairs and rejects the
others: memory holds one part, and a part reads only the row groups that may hold its URLs.

Also a command: `python -m pipelines.crawl.candidates --help`.
"""

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import code_versions, ledger, schemas, storage
from pipelines.crawl import seen
from pipelines.crawl.batches import (
    CrawlBatch,
    Source,
    SourceKind,
    batches_before,
    read_batch,
)
from pipelines.crawl.config import CandidatesConfig
from pipelines.crawl.found import FOUND, FoundRow, Problem, to_batches
from pipelines.crawl.http.client import HttpClient
from pipelines.crawl.reading import (
    describe,
    http_client,
    look_at_lists,
    plan_reading,
    policy,
)
from pipelines.crawl.sorted_runs import read_bucket, sort_by_hash
from pipelines.crawl.sources import archives, pages, url_lists
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.locks import only_writer
from pipelines.places import refuse_other_data
from pipelines.runners import Engine
from pipelines.schemas import IMAGE_TEXT_CANDIDATES, Stage
from pipelines.shards import Processed, Processor, ShardStage, rejected

DATASET = "image_text_candidates"
_RUN_ROWS = 131_072
_RUN_GROUP_ROWS = 1024
_CONTENT = ("uid", "url", "page_url", "caption_raw", "source", "snapshot")
log = logging.getLogger(__name__)
_ORDER = [(name, "ascending") for name in ("url", "uid", "source", "page_url", "problem", "detail")]


def extract_candidates(
    batch: str, layout: Layout, config: CandidatesConfig, engine: Engine
) -> Finished:
    """Write `image_text_candidates` of one crawl batch of a data root.

    Pairs that an earlier batch of the same source holds are rejected as repeats.

    Raises:
        FileNotFoundError: if the batch or one of its files is not there.
        ValueError: if the batch or one of its lists cannot be read.
        pages.SitemapError: if a sitemap gives no pages.
    """
    crawl = read_batch(batch, layout)
    names = {source.name for source in crawl.sources}
    earlier = [
        layout.dataset(DATASET, before.name)
        for before in batches_before(crawl, layout)
        if names & {source.name for source in before.sources}
    ]
    output, rejects = layout.dataset(DATASET, batch), layout.rejects(Stage.CRAWL, batch)
    return write_candidates(crawl, output, rejects, config, engine, earlier)


def write_candidates(
    crawl: CrawlBatch,
    output: str,
    rejects: str,
    config: CandidatesConfig,
    engine: Engine,
    earlier: Sequence[str] = (),
) -> Finished:
    """Write the candidates of `crawl` into `output`, and what is none into `rejects`.

    Args:
        crawl: the sources.
        output: directory of the dataset.
        rejects: directory of the rejects.
        config: of this stage.
        engine: the Beam engine to run on.
        earlier: directories of finished candidates whose pairs are repeats; which of them were
            finished when this one began is kept with the data, and a later change of theirs
            does not make this one out of date.

    Raises:
        As `extract_candidates`.
    """
    refuse_other_data(output, DATASET)
    inputs = [describe(crawl), *earlier]
    fingerprint = ledger.fingerprint(code_versions.CANDIDATES, policy(config), inputs)
    done = ledger.read_success(output)
    if done is not None and done.fingerprint == fingerprint and ledger.is_whole(output, done):
        return done
    with only_writer(output):
        return _write(crawl, output, rejects, config, engine, earlier, fingerprint)


def _write(
    crawl: CrawlBatch,
    output: str,
    rejects: str,
    config: CandidatesConfig,
    engine: Engine,
    earlier: Sequence[str],
    fingerprint: str,
) -> Finished:
    lists = look_at_lists(crawl)
    found = join(output, "_found")
    shards = plan_reading(crawl, config, join(found, "_plan.json"), fingerprint, lists)
    reading = ShardStage(
        dataset="found",
        schema=FOUND,
        processor=_sorting,
        output=found,
        rejects=join(found, "_rejects"),
        fingerprint=fingerprint,
        batch_rows=_RUN_ROWS,
        read=_Reader(config),
        writer_options=(("row_group_rows", _RUN_GROUP_ROWS),),
    ).run(shards, engine)
    runs = storage.list_files(found, ".parquet")
    known = seen.write_known(join(found, "_known", "uids.parquet"), runs, earlier)
    parts = max(1, -(-reading.rows // config.rows_per_part))
    gathering = ShardStage(
        dataset=DATASET,
        schema=IMAGE_TEXT_CANDIDATES,
        processor=functools.partial(_Splitter, known.url),
        output=output,
        rejects=rejects,
        fingerprint=fingerprint,
        read=functools.partial(_read_part, runs, parts),
        content_columns=_CONTENT,
        summarise=functools.partial(seen.write_seen, join(output, seen.DIRECTORY)),
    )
    finished = gathering.run(
        [str(bucket) for bucket in range(parts)],
        engine,
        sources=len(shards),
        compared_with=list(known.directories),
        ignored_columns=lists.ignored_columns,
    )
    storage.remove(found, recursive=True)
    return finished


class _Reader:
    """Reads a shard of any kind; its HTTP client is made in the worker, once."""

    def __init__(self, config: CandidatesConfig):
        self._config = config

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config}

    @functools.cached_property
    def _client(self) -> HttpClient:
        return http_client(self._config)

    def __call__(self, shard: str, rows: int) -> Iterator[pa.RecordBatch]:
        task = json.loads(shard)
        source = Source.from_json(task["source"])
        found = (row for item in task["items"] for row in self._rows(item, source))
        if "unreadable" in task:
            problem = FoundRow(None, None, None, Problem.UNREADABLE_FILE, task["unreadable"])
            found = (row for row in [problem])
        count = 0
        for batch in to_batches(found, source.name, source.snapshot, rows):
            count += batch.num_rows
            log.info("%s: %s rows read from %r", source.name, f"{count:,}", task["items"][0])
            yield batch

    def _rows(self, item: Any, source: Source) -> Iterator[FoundRow]:
        if source.kind is SourceKind.URL_LIST:
            return url_lists.read_list(item, source)
        agent = self._config.http.agent
        if source.kind is SourceKind.HTML_FILES:
            path, address = item
            return pages.read_html_file(path, address, agent)
        if source.kind is SourceKind.WEB_ARCHIVE:
            return archives.read_archive(item, agent)
        return pages.read_web_page(item, self._client, agent)


def _sorting() -> Processor:
    return _keep_sorted


def _keep_sorted(batch: pa.RecordBatch) -> Processed:
    return Processed(sort_by_hash(batch), pa.RecordBatch.from_pylist([], schema=schemas.REJECTS))


def _read_part(runs: list[str], parts: int, part: str, _rows: int) -> Iterator[pa.RecordBatch]:
    """All rows of a part's URLs, sorted, so that equal pairs are neighbours."""
    log.info("part %d of %d", int(part) + 1, parts)
    rows = read_bucket(runs, FOUND, int(part), parts)
    yield from rows.sort_by(_ORDER).combine_chunks().to_batches()


class _Splitter:
    """Keeps the first of equal uids without a problem, unless an earlier batch has it."""

    def __init__(self, known: str):
        self._known = seen.read_known(known)

    def __call__(self, batch: pa.RecordBatch) -> Processed:
        """Split `batch`, which holds all rows of its URLs."""
        uids = batch.column("uid").to_pylist()
        reasons: list[str | None] = batch.column("problem").to_pylist()
        met: set[bytes] = set()
        for row, uid in enumerate(uids):
            if reasons[row] is None:
                if uid in self._known:
                    reasons[row] = Problem.REPEAT_OF_EARLIER_BATCH
                elif uid in met:
                    reasons[row] = Problem.REPEAT
                met.add(uid)
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


if __name__ == "__main__":
    from pipelines.crawl import candidates_cli

    candidates_cli.main()
