"""One program at a time writes a directory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.locks import FileLock, InUseError
from training import remote
from training.errors import InputError

# Hidden, so that it is not uploaded with what lies in an object store.
_LOCK = ".writer.lock"


@contextlib.contextmanager
def only_program(output: Path) -> Iterator[None]:
    """Be the only program of this machine that writes a directory; two would mix their files.

    The first of several processes answers for its peers, also on other hosts. The lock is the
    system's, which releases it when the process ends. Of what lies in an object store it is beside
    the local copy: programs on two machines that share no disk do not know of each other.

    Args:
        output: the directory, which is made if it is not there.

    Raises:
        InputError: if there is another one, at once.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    place = remote.origin(output) or output
    output.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(
            str(output / _LOCK), f"another program writes {place}; wait until it ends, or stop it"
        )
    except InUseError as error:
        raise InputError(str(error)) from error
    try:
        yield
    finally:
        lock.release()
