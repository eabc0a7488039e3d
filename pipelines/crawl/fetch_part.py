"""One part of the candidates: what is known already, what is asked for, and the rows of both."""

import functools
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines import parquet
from pipelines.crawl.byte_budget import ByteBudget, give_large_blocks_back
from pipelines.crawl.config import FetchConfig
from pipelines.crawl.consent.takedown import SIGNAL, Takedown, read_takedown
from pipelines.crawl.fetch_ledger import (
    EARLIER,
    PartLedger,
    make_private,
    remove_ledger,
    work_directory,
)
from pipelines.crawl.fetch_rows import (
    count_outcome,
    is_still_listed,
    recorded_row,
    spread_domains,
    withdrawn,
)
from pipelines.crawl.fetched_earlier import SETTINGS, TAKEDOWN, EarlierPart, keep_readable
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.outcomes import Outcome
from pipelines.crawl.img2dataset_shard import Fetched, Statistics, fetch_shard, load_downloader
from pipelines.layout import join
from pipelines.locks import FileLock
from pipelines.schemas import FETCHED_PAIRS

OUTPUT_ROWS = 64
_OUTPUT_BYTES = 32_000_000
_OK = str(Outcome.OK)
COMMIT_ROWS = 8
_WAITING_BYTES = 100_000_000  # of bodies between their servers and the ledger
# Workers whose driver was killed may end a little later than it.
_LOCK_WAIT_S = 60.0


class Policy(NamedTuple):
    """Fingerprints of what decides about outcomes: the settings, and the takedown list."""

    settings: str
    takedown: str

    @property
    def metadata(self) -> dict[str, str]:
        """For the schema of the parts."""
        return {SETTINGS: self.settings, TAKEDOWN: self.takedown}


class _Work(NamedTuple):
    ledger: PartLedger
    lock: FileLock
    path: str
    earlier: EarlierPart


class _Answered(NamedTuple):
    pairs: list[dict[str, Any]]
    span: dict[str, float] | None


class PartReader:
    """Reads a part of the candidates as fetched pairs; client and worker are made once."""

    def __init__(self, config: FetchConfig, policy: Policy, output: str, parts: Sequence[str]):
        """Fetch `parts` for the dataset in `output`; part i becomes `part-i.parquet`."""
        self._config = config
        self._policy = policy
        self._output = output
        self._names = {part: f"part-{index:05d}" for index, part in enumerate(parts)}
        self._work: dict[str, _Work] = {}
        self._answered: dict[str, _Answered] = {}
        self._figures: dict[str, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        plain = {name: vars(self)[name] for name in ("_config", "_policy", "_output", "_names")}
        return plain | {"_work": {}, "_answered": {}, "_figures": {}}

    @functools.cached_property
    def _takedown(self) -> Takedown:
        return read_takedown(self._config.takedown)

    @functools.cached_property
    def _client(self) -> HttpClient:
        return HttpClient(self._config.http, self._takedown, self._config.concurrency)

    @functools.cached_property
    def _downloader(self) -> Any:
        return load_downloader()

    def fetch(self, part: str) -> None:
        """Ask for what is not known of a part after `begin`; then its ledger has every outcome."""
        batches = parquet.read_batches(part, columns=["uid", "url", "caption_raw"])
        pairs = sorted((row for b in batches for row in b.to_pylist()), key=_by_url)
        work = self._work[part]
        urls = list(dict.fromkeys(row["url"] for row in pairs))
        pending = self._pending(urls, work.earlier, work.ledger)
        span = self._fetch(pending, work) if pending else None
        self._answered[part] = _Answered(pairs, span)

    def __call__(self, part: str, _rows: int) -> Iterator[pa.RecordBatch]:
        """The pairs of a part after `fetch`, sorted by URL, each with its outcome.

        May run in another thread, beside the `fetch` of another part.
        """
        work, (pairs, span) = self._work[part], self._answered.pop(part)
        yield from self._rows(part, pairs, work.earlier, work.ledger)
        self._figures[part]["span"] = span

    def figures(self, part: str) -> Mapping[str, Any]:
        """Of a part that was read to its end: counts, outcomes, and the worker's own times."""
        return self._figures[part]

    def ended(self, part: str) -> None:
        """Remove the part's work files: its rows are in Parquet."""
        self._figures.pop(part, None)
        if part in self._work:
            self._work[part].ledger.close()
            remove_ledger(self._work[part].path)
            self._work.pop(part).lock.release()

    def begin(self, part: str) -> None:
        """Keep other processes from the part, and read what an earlier run left in its file.

        Before the file is written over; then `ended` or `failed` is called.

        Raises:
            InUseError: if another process has the part.
        """
        directory = work_directory(self._output)
        make_private(directory)
        name = self._names[part]
        path = os.path.join(directory, f"{name}.sqlite")
        taken = f"another process is fetching {name} of {self._output}: wait until it ends"
        lock = FileLock(f"{path}.lock", taken, _LOCK_WAIT_S)
        try:
            written = join(self._output, f"{name}.parquet")
            earlier = EarlierPart(keep_readable(written, path + EARLIER))
            self._work[part] = _Work(PartLedger(path, *self._policy), lock, path, earlier)
        except BaseException:
            lock.release()
            raise

    def failed(self, part: str) -> None:
        """Let go of the part; its work files stay for the next run."""
        self._answered.pop(part, None)
        work = self._work.pop(part, None)
        if work is not None:
            work.ledger.close()
            work.lock.release()

    def _pending(
        self, urls: Sequence[str], earlier: EarlierPart, ledger: PartLedger
    ) -> dict[str, int]:
        """URLs to ask for, in the order to do so, each with the requests made for it before."""
        recorded = ledger.rows()
        pending: dict[str, int] = {}
        kept: Counter[str] = Counter()
        for url in urls:
            row = recorded.get(url) or earlier.rows.get(url)
            if row is None:
                pending[url] = 0
            elif row["outcome"] == _OK:
                gone = withdrawn(url, row, self._takedown, self._config.http.max_bytes)
                if gone is not None:
                    ledger.record(url, gone, None)
                elif url not in recorded:
                    kept[_OK] += 1
            elif row["outcome"] is None or not (url in recorded or self._stands(row, earlier)):
                pending[url] = row["attempts"]
            elif url not in recorded:
                kept[row["outcome"]] += 1
        ledger.commit()
        ledger.note_kept(kept.total(), kept[_OK])
        return {url: pending[url] for url in spread_domains(list(pending))}

    def _stands(self, row: Mapping[str, Any], earlier: EarlierPart) -> bool:
        """Whether a failure of an earlier run needs no other try."""
        if earlier.takedown != self._policy.takedown and row["opt_out_signal"] == SIGNAL:
            return is_still_listed(row, self._takedown)
        return earlier.settings == self._policy.settings and not self._retryable(row)

    def _retryable(self, row: Mapping[str, Any]) -> bool:
        return Outcome(row["outcome"]).retryable and row["attempts"] < self._config.max_attempts

    def _fetch(self, pending: Mapping[str, int], work: _Work) -> dict[str, float]:
        """Ask for `pending`; every answer is in the ledger when this returns."""
        before = work.ledger.counts()
        directory = f"{work.path}.shard"
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)

        uncommitted = 0
        budget = ByteBudget(_WAITING_BYTES)
        give_large_blocks_back()

        def fetch(url: str) -> Fetched:
            response = self._client.get(url, sniff_image, Outcome.NOT_AN_IMAGE, budget)
            # The row is made here, in one of many threads, as hashing takes time.
            try:
                row = recorded_row(response, pending[url])
            except BaseException:
                budget.give(len(response.body or b""))
                raise
            return Fetched(response.outcome, response.body, row)

        def record(url: str, fetched: Fetched, waiting: int) -> None:
            nonlocal uncommitted
            work.ledger.record(url, fetched.row, fetched.body)
            uncommitted += 1
            # What waits behind this one would be lost with it, so it need not be on disk before.
            if not waiting or uncommitted >= COMMIT_ROWS:
                work.ledger.commit()
                uncommitted = 0

        counted = fetch_shard(
            self._downloader,
            list(pending),
            fetch,
            record,
            self._config.concurrency,
            directory,
            budget,
        )
        work.ledger.commit()
        _compare(counted, work.ledger.counts() - before, work.path)
        images = counted.outcomes[_OK]
        return {"started": counted.started, "ended": counted.ended, "images": images}

    def _rows(
        self,
        part: str,
        pairs: Sequence[dict[str, Any]],
        earlier: EarlierPart,
        ledger: PartLedger,
    ) -> Iterator[pa.RecordBatch]:
        """The pairs in their order with their URLs' outcomes, at most `OUTPUT_ROWS` at a time."""
        recorded = {url: row for url, row in ledger.rows().items() if row["outcome"] is not None}
        new, old = _Forward(ledger.images()), _Forward(earlier.images())
        figures = {"urls": 0, "images": 0, "image_bytes": 0}
        outcomes: dict[str, dict[str, Any]] = {}
        rows: list[dict[str, Any]] = []
        url, result, image, held = "", {}, None, 0
        for pair in pairs:
            if pair["url"] != url:
                url = pair["url"]
                result = recorded.get(url) or earlier.rows[url]
                image = None
                if result["outcome"] == _OK:
                    image = (new if url in recorded else old).image(url)
                result = result | {"retryable": self._retryable(result), "image": image}
                figures["urls"] += 1
                figures["images"] += image is not None
                figures["image_bytes"] += result["bytes"] or 0
            rows.append(pair | result)
            count_outcome(outcomes, rows[-1])
            held += len(image or b"")
            if len(rows) == OUTPUT_ROWS or held > _OUTPUT_BYTES:
                yield pa.RecordBatch.from_pylist(rows, schema=FETCHED_PAIRS)
                rows, held = [], 0
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=FETCHED_PAIRS)
        self._figures[part] = figures | {"outcomes": outcomes}


class _Forward:
    """Images by URL, asked for in the order in which they come."""

    def __init__(self, images: Iterator[tuple[str, bytes]]):
        self._images = images

    def image(self, url: str) -> bytes:
        for found, image in self._images:
            if found == url:
                return image
        raise RuntimeError(f"the image of {url} is not where its outcome is: is a part unsorted?")


def _by_url(row: Mapping[str, Any]) -> tuple[str, bytes]:
    return row["url"], row["uid"]


def _compare(counted: Statistics, recorded: Counter[str], path: str) -> None:
    if recorded != counted.outcomes:
        raise RuntimeError(
            f"{path}: img2dataset counted {dict(counted.outcomes)}, but the ledger has "
            f"{dict(recorded)} more than before"
        )
