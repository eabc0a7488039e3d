"""One process at a time: locks between the processes of one machine."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from fsspec.implementations.local import LocalFileSystem

from pipelines import storage

_POLL_S = 0.1


class InUseError(OSError):
    """Another process works on the same files."""


class FileLock:
    """A lock between processes, which ends with its process at the latest."""

    def __init__(self, path: str, taken: str, wait_s: float = 0.0):
        """Take the lock.

        Args:
            path: the lock's file.
            taken: what to say if another process keeps it.
            wait_s: how long to wait for another process.

        Raises:
            InUseError: if another process still has it after `wait_s`.
        """
        self._path = path
        deadline = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= deadline:
                raise InUseError(taken)
            time.sleep(_POLL_S)

    def _try(self) -> bool:
        try:
            # Whoever else may write in the directory must be able to take it too.
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # The one who had it removed the directory.
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            return self._try()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who had it may have removed the file after we opened it.
            if os.fstat(file).st_ino == os.stat(self._path).st_ino:
                self._file = file
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(file)
        return False

    def release(self) -> None:
        """Remove the file and let go."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._file)


@contextlib.contextmanager
def only_writer(output: str) -> Iterator[None]:
    """Be the only process of this machine that writes a local directory; elsewhere it is trusted.

    Raises:
        InUseError: if another one does.
    """
    fs, path = storage.filesystem(output)
    if not isinstance(fs, LocalFileSystem):
        yield
        return
    os.makedirs(path, exist_ok=True)
    taken = f"another process is writing {output}: wait until it ends, or stop it"
    lock = FileLock(os.path.join(path, "_lock"), taken)
    try:
        yield
    finally:
        lock.release()
