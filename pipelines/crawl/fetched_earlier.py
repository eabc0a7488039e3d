"""What an earlier run left in a part of `fetched_pairs`."""

from collections.abc import Iterator
from typing import Any

from pipelines import parquet, storage
from pipelines.crawl.fetch_ledger import COLUMNS

SETTINGS, TAKEDOWN = "fetch_settings", "fetch_takedown"  # keys in a part's schema metadata
_IMAGE_ROWS = 64


class EarlierPart:
    """The rows of a part's Parquet file, if it is there.

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
