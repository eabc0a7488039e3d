"""How far a fetch is, read from its files while other processes write them.

Receipts tell of finished parts, ledgers of the others. So it works beside any engine whose workers
share this machine's disk; elsewhere only finished parts are seen.
"""

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from fsspec.implementations.local import LocalFileSystem

from pipelines import progress, shards, storage
from pipelines.crawl.fetch_ledger import Counts, read_counts, work_directory
from pipelines.progress import Seen

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


def watch(
    output: str, total: int, report: Callable[[str], None] | None = None
) -> AbstractContextManager[None]:
    """Show how a fetch into `output` goes on while the `with` block runs.

    Args:
        output: directory of the dataset.
        total: URLs to fetch.
        report: gets a line of text every 30 s and at the end; None draws a bar on stderr.
    """
    local = isinstance(storage.filesystem(output)[0], LocalFileSystem)
    started, before = time.monotonic(), read_progress(output).images

    def look() -> Seen:
        counts = read_progress(output)
        rate = (counts.images - before) / max(time.monotonic() - started, 1e-9)
        share = counts.images / max(counts.urls, 1)
        return Seen(counts.urls, f"{rate:,.0f} images/s, {share:.1%} ok")

    return progress.watch(look, "URLs", total, report, None if local else _REMOTE_S)
