"""Directories that programs write pictures into: usable before long work, free of earlier runs'."""

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from pipelines import storage
from training import remote

# Files of ours lie in the directory, or in a folder of it.
_DEPTH = 2


def require_writable(directory: Path) -> None:
    """Make the directory if it is not there, and prove that it takes files.

    Raises:
        OSError: if it does not; naming the path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()


def clear(directory: Path, ours: re.Pattern[str], marker: str) -> None:
    """Remove what an earlier run wrote, here and in the store; all other files stay.

    Args:
        directory: of the program.
        ours: matches the files to remove, by their path in the directory.
        marker: file that says of what lies beside it that it is whole; it goes first.
    """
    for place in (remote.origin(directory), str(directory)):
        if place is None:
            continue
        fs, path = storage.filesystem(place)
        below = (name[len(path) :].lstrip("/") for name in fs.find(path, maxdepth=_DEPTH))
        found = sorted(filter(ours.fullmatch, below), key=lambda name: not name.endswith(marker))
        for name in found:
            fs.rm(f"{path}/{name}")
    for folder in {name.rpartition("/")[0] for name in found} - {""}:
        with suppress(OSError):  # something else lies there
            (directory / folder).rmdir()
