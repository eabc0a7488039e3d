"""One training of a model at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.locks import FileLock, InUseError
from training import remote
from training.errors import InputError

# Hidden, so that it is not uploaded with a model that lies in an object store.
_LOCK = ".training.lock"


@contextlib.contextmanager
def only_training(output: Path) -> Iterator[None]:
    """Be the only training of this machine that writes a model; two would mix their checkpoints.

    The first of several processes answers for its peers, also on other hosts. The lock is the
    system's, which releases it when the process ends. Of a model in an object store it lies beside
    the local copy: trainings on two machines that share no disk do not know of each other.

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
            str(output / _LOCK), f"another training writes {place}; wait until it ends, or stop it"
        )
    except InUseError as error:
        raise InputError(str(error)) from error
    try:
        yield
    finally:
        lock.release()
