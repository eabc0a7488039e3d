"""A bar on the terminal for work that leaves a file behind for every step."""

import contextlib
import sys
import threading
from collections.abc import Iterator

from tqdm import tqdm

from pipelines import storage

_SECONDS = 0.5


@contextlib.contextmanager
def counting(directory: str, suffix: str, name: str) -> Iterator[None]:
    """Show how many files are in `directory`, while the block runs; nothing off a terminal.

    Workers may be other processes or machines: the files are what all of them share.
    """
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        with tqdm(desc=name, unit="", leave=False) as bar:
            while not ended.wait(_SECONDS):
                bar.n = len(storage.list_files(directory, suffix))
                bar.refresh()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
