"""Candidates from a web archive, beside the same done with warcio and selectolax."""

import hashlib
import io
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.parse import urljoin

import psutil
import pyarrow as pa
from selectolax.lexbor import LexborHTMLParser
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from benchmarks.marks import Mark
from pipelines import identity
from pipelines.crawl.found import to_batches
from pipelines.crawl.sources.archives import read_archive

_ROUNDS = 5
_BATCH_ROWS = 16_000
_MADE_PAGES = 700
# Where the tests keep the manual of GIMP (Debian's gimp-help-en): hand-written pages.
_REAL = "dalle-graph/debian/gimp-help-en_2.10.34-2/usr/share/gimp/2.0/help/en"


def archive_extraction() -> Mark:
    """A WARC's bytes to record batches with normalised URLs and uids; prints pages a second.

    The pages are real ones if the tests have downloaded them, else made to the same measures.
    """
    pages, kind = _pages()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/pages.warc.gz"
        _write(path, pages)

        def ours() -> int:
            rows = read_archive(path, "dalle-graph")
            return sum(batch.num_rows for batch in to_batches(rows, "s", None, _BATCH_ROWS))

        def peer() -> int:
            return _by_hand(path).num_rows

        if ours() != peer():
            raise RuntimeError("the two do not find the same number of images")
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(_ROUNDS):
            for work, kept in zip((ours, peer), seconds, strict=True):
                start = _cpu_seconds()
                work()
                kept.append(_cpu_seconds() - start)
    mine, theirs = (median(kept) for kept in seconds)
    print(f"{len(pages)} {kind} pages: {len(pages) / mine:.0f} pages/s a core")
    return Mark("candidates from a WARC", mine, theirs, "warcio and selectolax", None)


def _cpu_seconds() -> float:
    """CPU time of this process and its children: hard pages are parsed in one."""
    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


def _pages() -> tuple[list[bytes], str]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    files = sorted((cache / _REAL).glob("*.html"))
    if files:
        return [file.read_bytes() for file in files], "real"
    # As the manual's pages in the middle: 240 elements, 9 images, 12 kB.
    text = "<p>Words <b>and</b> <a href='page.html' title='Page'>links</a> in a paragraph.</p>" * 20
    images = "".join(
        f'<div class="x"><img src="images/{n}.png" alt="Image {n}" /></div>' for n in range(9)
    )
    page = f"<html><head><title>Page</title></head><body>{text}{images}{text * 5}</body></html>"
    return [page.encode()] * _MADE_PAGES, "made"


def _write(path: str, pages: list[bytes]) -> None:
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for n, page in enumerate(pages):
            http = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            url = f"http://site.example/en/{n}.html"
            record = writer.create_warc_record(url, "response", io.BytesIO(page), http_headers=http)
            writer.write_record(record)


def _by_hand(path: str) -> pa.Table:
    """What a script does: every image with alt, its address resolved, and the pair's uid."""
    rows = []
    with open(path, "rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type != "response":
                continue
            page = record.rec_headers.get_header("WARC-Target-URI")
            tree = LexborHTMLParser(record.content_stream().read())
            for node in tree.css("img[alt]"):
                source, alt = node.attributes.get("src"), node.attributes.get("alt")
                if source and alt and alt.strip():
                    url = identity.normalise_url(urljoin(page, source))
                    caption = " ".join(alt.split())
                    uid = hashlib.sha256(f"{url}\0{caption}".encode()).digest()[:16]
                    rows.append({"uid": uid, "url": url, "page_url": page, "caption_raw": caption})
    return pa.Table.from_pylist(rows)
