"""How far a fetch is, read from its files while other processes write them.

Receipts tell of finished parts, ledgers of the others. So it works beside any engine whose workers
share this machine's disk; elsewhere only finished parts are seen.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from pipelines import shards, storage
from pipelines.crawl.fetch_ledger import Counts, read_counts, work_directory

log = logging.getLogger(__name__)

_BAR_S = 1.0
_LINE_S = 30.0
_REMOTE_S = 30.0  # every look reads the receipts again


def read_progress(output: str) -> Counts:
    """URLs with an outcome, and images, in the finished and unfinished parts of a dataset."""
    urls = images = 0
    finished = set()
    for url, receipt in shards.read_receipts(output).items():
        finished.add(url.rsplit("/", 1)[1].split(".")[0])
        urls += receipt["figures"]["urls"]
        images += receipt["figures"]["images"]
    work = work_directory(output)
    names = os.listdir(work) if os.path.isdir(work) else []
    for name in names:
        part, suffix = os.path.splitext(name)
        if suffix == ".sqlite" and part not in finished:
            counts = read_counts(os.path.join(work, name))
            urls += counts.urls
            images += counts.images
    return Counts(urls, images)


@contextlib.contextmanager
def watch(output: str, total: int, report: Callable[[str], None] | None = None) -> Iterator[None]:
    """Show how a fetch into `output` goes on while the `with` block runs.

    Args:
        output: directory of the dataset.
        total: URLs to fetch.
        report: gets a line of text every 30 s and at the end; None draws a bar on stderr.
    """
    stop = threading.Event()
    shown = _Bar(total) if report is None else _Lines(total, report)
    local = isinstance(storage.filesystem(output)[0], LocalFileSystem)
    period = (_BAR_S if report is None else _LINE_S) if local else _REMOTE_S

    def look() -> None:
        while not stop.wait(period):
            # A look that fails must not end those after it, let alone the fetch.
            try:
                shown.update(read_progress(output))
            except Exception:
                log.warning("the progress cannot be read", exc_info=True)

    thread = threading.Thread(target=look, daemon=True, name="fetch-progress")
    shown.update(read_progress(output))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        shown.update(read_progress(output))
        shown.close()


class _Lines:
    """Lines of text."""

    def __init__(self, total: int, report: Callable[[str], None]):
        self._total = total
        self._report = report
        self._first: tuple[float, int] | None = None

    def text(self, counts: Counts) -> str:
        """Images a second since the first call, and the share of images."""
        now = time.monotonic()
        start, images = self._first = self._first or (now, counts.images)
        rate = (counts.images - images) / (now - start) if now > start else 0.0
        share = counts.images / counts.urls if counts.urls else 0.0
        return f"{rate:,.0f} images/s, {share:.1%} ok"

    def update(self, counts: Counts) -> None:
        started = self._first is not None
        text = self.text(counts)
        if started:
            self._report(f"{counts.urls:,} of {self._total:,} URLs, {text}")

    def close(self) -> None:
        pass


class _Bar(_Lines):
    """A bar on stderr."""

    def __init__(self, total: int):
        super().__init__(total, lambda _: None)
        self._bar = tqdm(total=total, unit=" URLs", file=sys.stderr, dynamic_ncols=True)

    def update(self, counts: Counts) -> None:
        self._bar.set_postfix_str(self.text(counts), refresh=False)
        self._bar.n = counts.urls
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()
