"""The outcomes of one part while it is being fetched: a SQLite file that outlives the process.

Who records commits every few results, and at once when none is waiting behind, so a process that
is killed loses only the URLs it was asking for and those few. The file is also for people: while a
crawl runs,

    sqlite3 -readonly DIR/_work/part-00000.sqlite 'SELECT outcome, count(*) FROM urls GROUP BY 1'

It is removed when the part's Parquet file, rejects and receipt are written.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from fsspec.implementations.local import LocalFileSystem

from pipelines import storage
from pipelines.crawl.consent.takedown import SIGNAL
from pipelines.crawl.http.outcomes import Outcome
from pipelines.locks import InUseError

log = logging.getLogger(__name__)

# Of `fetched_pairs`; the image apart, which is read one at a time.
COLUMNS = (
    "outcome", "detail", "http_status", "mime", "fetched_at", "attempts",
    "opt_out_signal", "opt_out_text", "bytes", "image_sha256",
)  # fmt: skip
_MARKS = ", ".join("?" * (len(COLUMNS) + 2))
EARLIER = ".earlier"  # after a ledger's name: a copy of the part that is written over
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
# Measured with images of 2 to 100 kB. Without checkpoints each image is written once, to the log,
# which ends with the part: half the time, 0.1 ms for 50 kB. Pages of 8 kB write a third less than
# 16 kB with small images and take as little time with large ones; a table without row ids takes
# twice as long.
_SETUP = """
    PRAGMA page_size = 8192;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA wal_autocheckpoint = 0;
    CREATE TABLE IF NOT EXISTS urls (
        url TEXT PRIMARY KEY, outcome TEXT, detail TEXT, http_status INTEGER, mime TEXT,
        fetched_at INTEGER, attempts INTEGER NOT NULL, opt_out_signal TEXT, opt_out_text TEXT,
        bytes INTEGER, image_sha256 BLOB, image BLOB);
    CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def work_directory(output: str) -> str:
    """Local directory of the ledgers of a dataset's parts.

    It is inside a local output. For a remote one it is below the directory for temporary files
    (`TMPDIR`), named after the output, so that a new process on this machine finds it again.
    """
    fs, path = storage.filesystem(output)
    if isinstance(fs, LocalFileSystem):
        return os.path.join(path, "_work")
    name = hashlib.sha256(output.encode()).hexdigest()[:16]
    return os.path.join(_among_others(), name)


def _among_others() -> str:
    """Directory of this user's where other users may make files too."""
    return os.path.join(tempfile.gettempdir(), f"dalle-graph-{os.getuid()}")


def make_private(directory: str) -> None:
    """Make a directory that only this user may use; not where one may look for it.

    Raises:
        InUseError: if something else is there: a link, or what others own or may use.
    """
    if os.path.dirname(directory) == _among_others():
        _make_own(_among_others(), 0o077)
        _make_own(directory, 0o077)
    else:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        _make_own(directory, 0)


def _make_own(directory: str, forbidden: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, mode=0o700)
    found = os.lstat(directory)  # a link here could be anybody's
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not own or found.st_mode & forbidden:
        raise InUseError(
            f"{directory} is not a directory of yours that is closed to others (mode 0700): remove "
            "it, or set TMPDIR to a directory of yours"
        )


class PartLedger:
    """The outcomes of one part so far; used by one thread at a time."""

    def __init__(self, path: str, policy: str, takedown: str):
        """Open or begin the ledger.

        Rows of another policy lose their outcome, unless it is `ok`; their requests still count.

        Args:
            path: the SQLite file; one that is damaged is set aside.
            policy: fingerprint of the settings that decide about outcomes.
            takedown: hash of the takedown list.

        Raises:
            sqlite3.OperationalError: if the file cannot be opened, read or written; it stays.
        """
        self._path = path
        try:
            self._db = self._opened()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            log.warning("%s is damaged (%s): set aside, its URLs are fetched again", path, error)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path + suffix, f"{path}.damaged{suffix}")
            self._db = self._opened()
        again = []
        if self._about("policy") not in (None, policy):
            again.append("outcome != 'ok'")
        if self._about("takedown") not in (None, takedown):
            again.append(f"opt_out_signal = '{SIGNAL}'")
        with self._transaction():
            for condition in again:
                self._db.execute(f"UPDATE urls SET outcome = NULL WHERE {condition}")
            self._note(policy=policy, takedown=takedown)

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.executescript(_SETUP)
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        yield
        self._db.execute("COMMIT")

    def _about(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _note(self, **values: str) -> None:
        for item in values.items():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", item)

    def note_kept(self, count: int, images: int) -> None:
        """Say how many URLs need no request because an earlier run had them, for `progress`."""
        with self._transaction():
            self._note(kept=str(count), kept_images=str(images))

    def record(self, url: str, row: Mapping[str, Any], image: bytes | None) -> None:
        """Set the outcome of a URL (`COLUMNS`; times in microseconds); on disk after `commit`."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        values = (url, *(row[name] for name in COLUMNS), image)
        self._db.execute(f"INSERT OR REPLACE INTO urls VALUES ({_MARKS})", values)

    def commit(self) -> None:
        """Put what was recorded on the disk."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Every URL that was recorded, without its image.

        Where `outcome` is None the URL must be asked for again.
        """
        found = self._db.execute(f"SELECT url, {', '.join(COLUMNS)} FROM urls")
        return {url: dict(zip(COLUMNS, rest, strict=True)) for url, *rest in found}

    def images(self) -> Iterator[tuple[str, bytes]]:
        """The images that were recorded, with their URLs, in the order of these."""
        yield from self._db.execute("SELECT url, image FROM urls WHERE outcome = 'ok' ORDER BY url")

    def counts(self) -> Counter[str]:
        """URLs by outcome."""
        return Counter(dict(_outcomes(self._db)))

    def close(self) -> None:
        """Commit, and close without SQLite's checkpoint, which would copy every image."""
        self.commit()
        last = _reader(self._path)
        with contextlib.suppress(sqlite3.Error):
            last.execute("SELECT count(*) FROM about").fetchone()
        self._db.close()
        last.close()


def _reader(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether it is the file that is wrong, not the disk or the system."""
    code = getattr(error, "sqlite_errorcode", None)  # None: from our own check
    return code is None or code & 0xFF in _DAMAGED


class Counts(NamedTuple):
    """URLs of an unfinished part that have an outcome, and images among them."""

    urls: int
    images: int


def read_counts(path: str) -> Counts:
    """Counts of a ledger that another process may be writing; zeros if it cannot be read."""
    try:
        with contextlib.closing(_reader(path)) as db:
            outcomes = dict(_outcomes(db))
            about = dict(db.execute("SELECT name, value FROM about").fetchall())
    except sqlite3.Error:
        return Counts(0, 0)
    kept, images = int(about.get("kept", 0)), int(about.get("kept_images", 0))
    return Counts(sum(outcomes.values()) + kept, outcomes.get(Outcome.OK, 0) + images)


def _outcomes(db: sqlite3.Connection) -> list[tuple[str, int]]:
    query = "SELECT outcome, count(*) FROM urls WHERE outcome IS NOT NULL GROUP BY outcome"
    return db.execute(query).fetchall()


def remove_ledger(path: str) -> None:
    """Remove a ledger and what belongs to it."""
    for suffix in ("-wal", "-shm", "", EARLIER):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
    shutil.rmtree(f"{path}.shard", ignore_errors=True)
