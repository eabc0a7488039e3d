"""A bar of the rows that finished parts account for, while other processes write them."""

import contextlib
import sys
import threading
from collections.abc import Iterator

from tqdm import tqdm

from pipelines import shards

_PERIOD_S = 1.0


@contextlib.contextmanager
def watch(output: str, total: int) -> Iterator[None]:
    """Draw on stderr while the `with` block runs.

    Args:
        output: directory of the dataset that is written.
        total: rows that come in.
    """
    stop = threading.Event()
    with tqdm(total=total, unit=" rows", file=sys.stderr, dynamic_ncols=True) as bar:

        def look() -> None:
            receipts = shards.read_receipts(output).values()
            bar.n = min(sum(receipt["funnel"]["rows_in"] for receipt in receipts), total)
            bar.refresh()

        def keep_looking() -> None:
            while not stop.wait(_PERIOD_S):
                # What cannot be read now is read at the next look.
                with contextlib.suppress(OSError):
                    look()

        thread = threading.Thread(target=keep_looking, daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with contextlib.suppress(OSError):
                look()
