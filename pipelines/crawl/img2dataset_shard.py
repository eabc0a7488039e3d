"""img2dataset's shard worker with our fetch inside.

img2dataset brings the shard format, the thread pool with its back-pressure, the writer and the
statistics. The seam is one name: `Downloader.download_shard` calls `download_image_with_retry`,
which it looks up among the globals of its module. The worker below is the same code object with
other globals, in which that name is ours; nothing is patched, so other users of the module in this
process see no change. `SEAM_SHA256` is the hash of the code that was read; another version of
img2dataset fails here instead of quietly fetching by itself.
"""

import hashlib
import inspect
import io
import os
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines import parquet, storage
from pipelines.crawl.http_fetch import Response

SEAM = "download_image_with_retry"
SEAM_SHA256 = "a80d378a04df51dfa217bf49897cc199b8a498fb5f4d5305a69ed9b0000f67e2"


class Fetched(NamedTuple):
    """A response whose body went through the shard file."""

    response: Response
    image: bytes | None


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
    fetch: Callable[[str], Response],
    threads: int,
    directory: str,
) -> Iterator[Fetched]:
    """Fetch `urls` with img2dataset's worker and give the results in their order.

    The body of each response goes through the shard file that the worker writes; the rest is kept
    in memory, a few hundred bytes a URL.

    Args:
        downloader: what `load_downloader` gave.
        urls: different URLs.
        fetch: called from `threads` threads; what it raises is raised when all URLs were tried.
        threads: size of the thread pool.
        directory: local work directory; the shard files stay in it.

    Raises:
        RuntimeError: if the worker lost a URL.
    """
    if not urls:
        return
    from img2dataset.resizer import Resizer
    from img2dataset.writer import ParquetSampleWriter

    responses: dict[int, Response] = {}
    bugs: list[Exception] = []

    def ours(row: tuple[int, str], **_: Any) -> tuple[int, io.BytesIO | None, str | None]:
        key, url = row
        try:
            response = fetch(url)
        except Exception as error:
            # The worker's thread pool would wait for ever for an exception to be collected.
            bugs.append(error)
            return key, None, "bug"
        responses[key] = replace(response, body=None)
        if response.body is None:
            return key, None, str(response.outcome)
        return key, io.BytesIO(response.body), None

    shard = f"{directory}/00000.feather"
    with storage.atomic_output(shard) as stream:
        table = pa.table({"url": pa.array(urls, pa.string())})
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
    # Bytes pass as they are (`disable_all_reencoding`), so "jpg" below is only a column's name.
    worker = downloader(
        sample_writer_class=ParquetSampleWriter,
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
    if len(responses) != len(urls):
        raise RuntimeError(f"img2dataset answered {len(responses)} of {len(urls)} URLs")
    yield from _in_order(f"{directory}/00000.parquet", responses)


def _with_seam(method: types.FunctionType, fetch: Callable[..., Any]) -> Callable[..., None]:
    names = {**method.__globals__, SEAM: fetch}
    return types.FunctionType(method.__code__, names, method.__name__, method.__defaults__)


def _in_order(shard: str, responses: dict[int, Response]) -> Iterator[Fetched]:
    """Results in order of their keys; only those that came before their turn are held."""
    waiting: dict[int, bytes | None] = {}
    turn = 0
    for batch in parquet.read_batches(shard, columns=["key", "jpg"], rows=100):
        for key, image in zip(*(batch.column(n).to_pylist() for n in ("key", "jpg")), strict=True):
            waiting[int(key)] = image
        while turn in waiting:
            yield Fetched(responses[turn], waiting.pop(turn))
            turn += 1
    if turn != len(responses) or waiting:
        raise RuntimeError(f"img2dataset wrote {turn} of {len(responses)} results in {shard}")
