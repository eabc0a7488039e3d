"""What an earlier run left in a part of `fetched_pairs`."""

import logging
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines import parquet, storage
from pipelines.crawl.fetch_ledger import COLUMNS

SETTINGS, TAKEDOWN = "fetch_settings", "fetch_takedown"  # keys in a part's schema metadata
_IMAGE_ROWS = 64
log = logging.getLogger(__name__)


def keep_readable(url: str, copy: str) -> str:
    """URL of a part that can be read while the file `url` is written over.

    A local file can, as it is replaced at the end. Other stores may show a file that is being
    written, so theirs is copied to the local path `copy`. A copy that is there already is of before
    a run that was killed, and is kept.
    """
    fs, path = storage.filesystem(url)
    if isinstance(fs, LocalFileSystem):
        return url
    if not os.path.exists(copy) and fs.exists(path):
        with fs.open(path, "rb") as there, storage.atomic_output(copy) as here:
            shutil.copyfileobj(there, here)
    return copy


class EarlierPart:
    """The rows of a part's Parquet file, if it is there and can be read.

    Attributes:
        settings: fingerprint of the settings that they were fetched under; None if unknown.
        takedown: hash of the takedown list of that time.
        rows: a URL's columns (`fetch_ledger.COLUMNS`, times in microseconds).
    """

    def __init__(self, url: str):
        """Read the file `url`, images apart."""
        self._url = url
        self.settings = self.takedown = None
        self.rows: dict[str, dict[str, Any]] = {}
        if not storage.exists(url):
            return
        try:
            self._read()
        except (pa.ArrowInvalid, OSError) as error:
            if not _is_damage(error):
                raise
            log.warning("%s is damaged (%s): its URLs are fetched again", url, error)
            self.settings = self.takedown = None
            self.rows.clear()

    def _read(self) -> None:
        url = self._url
        about = parquet.read_schema(url).metadata or {}
        self.settings, self.takedown = (
            about[key.encode()].decode() if key.encode() in about else None
            for key in (SETTINGS, TAKEDOWN)
        )
        for batch in parquet.read_batches(url, columns=["url", *COLUMNS]):
            place = batch.schema.get_field_index("fetched_at")
            times = batch.column(place).cast("int64")
            for row in batch.set_column(place, "fetched_at", times).to_pylist():
                self.rows.setdefault(row.pop("url"), row)

    def images(self) -> Iterator[tuple[str, bytes]]:
        """The images with their URLs, in the order of these."""
        if not self.rows:
            return
        columns = ["url", "image"]
        last = ""
        for batch in parquet.read_batches(self._url, columns=columns, rows=_IMAGE_ROWS):
            for url, image in zip(batch.column("url"), batch.column("image"), strict=True):
                if image.is_valid and url.as_py() != last:
                    last = url.as_py()
                    yield last, image.as_py()


def _is_damage(error: Exception) -> bool:
    """Whether it is the file that is wrong, not the disk or the network."""
    # Arrow's word for pages that it cannot decode is an OSError without a number.
    return isinstance(error, pa.ArrowInvalid) or (type(error) is OSError and error.errno is None)
