"""img2dataset's shard worker with our fetch and our writer inside.

img2dataset brings the threads with their back-pressure, the way of a sample from the pool to the
writer, and the statistics. The writer is its own extension point (`sample_writer_class`): ours
hands each sample on as it arrives, where img2dataset's Parquet writer loses the shard when killed.

The seam is one name: `Downloader.download_shard` calls `download_image_with_retry`, which it looks
up among the globals of its module. The worker below is the same code object with other globals, in
which that name is ours; nothing is patched, so other users of the module in this process see no
change. `SEAM_SHA256` is the hash of the code that was read; another version of img2dataset fails
here instead of quietly fetching by itself.
"""

import hashlib
import inspect
import io
import os
import types
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines import storage
from pipelines.crawl.byte_budget import UNLIMITED, ByteBudget
from pipelines.crawl.http.outcomes import Outcome

SEAM = "download_image_with_retry"
SEAM_SHA256 = "a80d378a04df51dfa217bf49897cc199b8a498fb5f4d5305a69ed9b0000f67e2"


class Fetched(NamedTuple):
    """How a request ended: its outcome, the body if `ok`, and the row to record."""

    outcome: Outcome
    body: bytes | None
    row: dict[str, Any]


class Statistics(NamedTuple):
    """What the worker counted: URLs by outcome, and its own times (seconds since 1970)."""

    outcomes: Counter[str]
    started: float
    ended: float


def load_downloader() -> Any:
    """img2dataset's `Downloader` class; slow (5 to 17 s), so call it only in a worker.

    Raises:
        RuntimeError: if the installed version is not the one that the seam was made for.
    """
    # One of its dependencies otherwise asks PyPI for updates when imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.downloader import Downloader

    found = seam_sha256(Downloader)
    if found != SEAM_SHA256:
        raise RuntimeError(
            "this img2dataset is not the version that pipelines/crawl/img2dataset_shard.py was "
            f"made for (its shard worker hashes to {found}): install img2dataset==1.47.0, or check "
            f"that download_shard still calls {SEAM} and set SEAM_SHA256"
        )
    return Downloader


def seam_sha256(downloader: Any) -> str:
    """SHA-256, in hex, of the source of the shard worker's function."""
    return hashlib.sha256(inspect.getsource(downloader.download_shard).encode()).hexdigest()


def fetch_shard(
    downloader: Any,
    urls: Sequence[str],
    fetch: Callable[[str], Fetched],
    record: Callable[[str, Fetched, int], None],
    threads: int,
    directory: str,
    budget: ByteBudget = UNLIMITED,
) -> Statistics:
    """Fetch `urls` with img2dataset's worker.

    Args:
        downloader: what `load_downloader` gave.
        urls: different URLs, in the order in which they are begun.
        fetch: called from `threads` threads. What it or `record` raises ends the shard: nothing
            more is asked for, and it is raised again here.
        record: gets each URL, its result with the bytes that came through the worker, and how many
            results are waiting behind it; in this thread and as they arrive.
        threads: size of the thread pool; twice as many results may wait for `record`.
        directory: local work directory, which exists; the statistics stay in it.
        budget: what `fetch` took its bodies' bytes from; they are given back when `record` is done
            with them. That thread waits for no bytes, so those that do are always served.

    Raises:
        RuntimeError: if the worker lost a URL.
    """
    from img2dataset.resizer import Resizer

    results: dict[int, Fetched] = {}
    bugs: list[Exception] = []

    def ours(row: tuple[int, str], **_: Any) -> tuple[int, io.BytesIO | None, str | None]:
        key, url = row
        if bugs:
            return key, None, "stopped"
        try:
            results[key] = result = fetch(url)
        except Exception as error:
            # The worker's thread pool would wait for ever for an exception to be collected.
            bugs.append(error)
            return key, None, "stopped"
        if result.body is None:
            return key, None, str(result.outcome)
        return key, io.BytesIO(result.body), None

    class Writer:
        """img2dataset's protocol of a sample writer."""

        def __init__(self, *_: Any):
            pass

        def write(
            self, image: bytes | None, key: str, _caption: None, meta: dict[str, Any]
        ) -> None:
            result = results.pop(int(key), None)
            if result is None:
                return
            try:
                if not bugs:
                    record(meta["url"], result._replace(body=image), len(results))
            except Exception as error:
                # The worker would print it and go on.
                bugs.append(error)
            finally:
                budget.give(len(result.body or b""))

        def close(self) -> None:
            pass

    shard = f"{directory}/00000.feather"
    table = pa.table({"url": pa.array(urls, pa.string())})
    with pa.ipc.new_file(shard, table.schema) as stream:
        stream.write_table(table)
    # Bytes pass as they are (`disable_all_reencoding`).
    worker = downloader(
        sample_writer_class=Writer,
        resizer=Resizer(256, "no", resize_only_if_bigger=False, disable_all_reencoding=True),
        thread_count=threads,
        save_caption=False,
        extract_exif=False,
        output_folder=directory,
        column_list=["url"],
        timeout=None,
        number_sample_per_shard=max(2, len(urls)),
        oom_shard_count=5,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    _with_seam(worker.download_shard.__func__, ours)(worker, (0, shard))
    if bugs:
        raise bugs[0]
    return _statistics(f"{directory}/00000_stats.json", len(urls))


def _with_seam(method: types.FunctionType, fetch: Callable[..., Any]) -> Callable[..., None]:
    names = {**method.__globals__, SEAM: fetch}
    return types.FunctionType(method.__code__, names, method.__name__, method.__defaults__)


def _statistics(path: str, asked: int) -> Statistics:
    found = storage.read_json(path)
    outcomes = Counter(found["status_dict"])
    successes = outcomes.pop("success", 0)
    if successes:
        outcomes[str(Outcome.OK)] = successes
    told = found["successes"] + found["failed_to_download"]
    if not asked == found["count"] == told == outcomes.total():
        raise RuntimeError(f"img2dataset was given {asked} URLs, its statistics say {found}")
    return Statistics(outcomes, found["start_time"], found["end_time"])
