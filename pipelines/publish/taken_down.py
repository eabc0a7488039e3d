"""Which token rows a takedown list covers, and the lists that count for every publication."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.crawl.consent.takedown import Takedown, merge, read_takedown
from pipelines.layout import Layout, join

TAKEN_DOWN = "taken_down"
COLUMNS = ("uid", "url", "image_sha256")

# Stored URLs are normalised: no user, lower-case host.
_HOST = r"^[a-z]+://(?P<host>\[[^\]]*\]|[^/:?#]*)"


def is_taken_down(rows: pa.RecordBatch | pa.Table, takedown: Takedown) -> pa.Array:
    """Bool for each row: whether its uid, image, URL or domain is on the list.

    Args:
        rows: with `COLUMNS`.
        takedown: the list.
    """
    uids = pa.array(sorted(takedown.uids), pa.binary(16))
    images = pa.array(sorted(takedown.images), pa.binary(32))
    urls = pa.array(sorted(takedown.urls), pa.string())
    found = pc.is_in(rows.column("uid"), value_set=uids)
    found = pc.or_(found, pc.is_in(rows.column("image_sha256"), value_set=images))
    found = pc.or_(found, pc.is_in(rows.column("url"), value_set=urls))
    if takedown.domains:
        hosts = pc.struct_field(pc.extract_regex(rows.column("url"), _HOST), "host")
        # A crawl has far fewer hosts than rows, and only a few rows a host need Python.
        listed = [h for h in pc.unique(hosts).to_pylist() if h and takedown.listed_domain(h)]
        listed_hosts = pc.is_in(hosts, value_set=pa.array(listed, pa.string()))
        found = pc.or_(found, listed_hosts)
    return found


def remember(layout: Layout, takedown: Takedown) -> None:
    """Let a list count for every later publication; the same one twice is the same file."""
    plain = merge([takedown])
    if text := plain.text():
        storage.write_bytes(join(layout.takedowns, f"{plain.sha256}.txt"), text.encode())


def with_applied(layout: Layout, takedown: Takedown | None) -> Takedown:
    """The entries of a list, and of all that were applied to this data root before.

    Raises:
        ValueError: if a line of theirs is no entry, with the file and the line.
    """
    applied = [read_takedown(url) for url in storage.list_files(layout.takedowns, ".txt")]
    return merge([takedown, *applied] if takedown else applied)
