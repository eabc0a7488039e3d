"""The manual of GIMP, as Debian packs it: 685 hand-written pages served by a real web server."""

import html.parser
import io
from collections import Counter
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pyarrow as pa
import pytest
from debian_packages import unpacked
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter
from web_server import WebServer, serving

from pipelines import parquet, storage
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.crawl.candidates import extract_candidates
from pipelines.crawl.config import CandidatesConfig, FetchConfig, HttpConfig
from pipelines.crawl.fetch import fetch_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

pytestmark = pytest.mark.slow

PAGES, IMAGES = 685, 6242
HTTP = HttpConfig(
    contact="mailto:tests@localhost", domain_delay_s=0, allow_networks=("127.0.0.0/8",)
)
CANDIDATES = CandidatesConfig(HTTP)


class Counted(html.parser.HTMLParser):
    """Images with a text, by another parser than ours."""

    def __init__(self, url: str):
        super().__init__()
        self._url = url
        self.pairs: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img" and (given.get("alt") or "").strip():
            text = " ".join((given["alt"] or "").split())
            self.pairs.append((urljoin(self._url, given["src"] or ""), text))


class Manual:
    """The pages on disk and on the server, and the pairs in them."""

    def __init__(self, server: WebServer, root: Path, folder: Path):
        self.server, self.root = server, root
        self.pages = sorted((root / "en").rglob("*.html"))
        self.pairs: list[tuple[str, str]] = []
        for page in self.pages:
            parser = Counted(self.url(page))
            parser.feed(page.read_text())
            self.pairs += parser.pairs
        self.layout = Layout(str(folder / "data"))

    def url(self, page: Path) -> str:
        return f"{self.server.url}/{page.relative_to(self.root)}"

    def rows(self, dataset: str, batch: str, *columns: str) -> pa.Table:
        files = storage.list_files(self.layout.dataset(dataset, batch), ".parquet")
        return pa.Table.from_batches(
            [b for file in files for b in parquet.read_batches(file, columns=list(columns))]
        )


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manual")
    files = unpacked("gimp-help-en", "2.10.34-2") / "usr/share/gimp/2.0/help/en"
    root = folder / "root"
    root.mkdir()
    (root / "en").symlink_to(files)
    with serving(root, folder / "server") as server:
        manual = Manual(server, root, folder)
        locations = "".join(f"<url><loc>{manual.url(page)}</loc></url>" for page in manual.pages)
        (root / "sitemap.xml").write_text(f"<?xml version='1.0'?><urlset>{locations}</urlset>")
        source = Source("web", SourceKind.SITEMAP, (f"{server.url}/sitemap.xml",))
        write_batch(CrawlBatch("web", (source,)), manual.layout)
        manual.found = extract_candidates("web", manual.layout, CANDIDATES, Engine())
        yield manual


def test_every_image_with_a_text_is_found(manual):
    assert (len(manual.pages), len(manual.pairs)) == (PAGES, IMAGES)
    assert manual.found.funnel.rows_in == IMAGES
    distinct = set(manual.pairs)
    assert manual.found.rows == len(distinct)
    assert manual.found.funnel.dropped == {"repeat": IMAGES - len(distinct)}
    table = manual.rows("image_text_candidates", "web", "url", "caption_raw")
    pairs = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
    assert set(pairs) == distinct
    asked = Counter(manual.server.asked())
    assert {asked[urlsplit(manual.url(page)).path] for page in manual.pages} == {1}


def test_an_archive_of_the_pages_gives_the_same_candidates(manual, tmp_path):
    path = tmp_path / "manual.warc.gz"
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for page in manual.pages:
            http = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            record = writer.create_warc_record(
                manual.url(page), "response", io.BytesIO(page.read_bytes()), http_headers=http
            )
            writer.write_record(record)
    source = Source("archive", SourceKind.WEB_ARCHIVE, (str(path),))
    write_batch(CrawlBatch("archive", (source,)), manual.layout)
    found = extract_candidates("archive", manual.layout, CANDIDATES, Engine())
    assert (found.funnel.rows_in, found.funnel.dropped) == (IMAGES, manual.found.funnel.dropped)
    columns = ("uid", "url", "page_url", "caption_raw")
    archived, crawled = (
        manual.rows("image_text_candidates", batch, *columns).to_pylist()
        for batch in ("archive", "web")
    )
    assert archived == crawled


def test_every_picture_is_asked_for_once(manual):
    before = len(manual.server.asked())
    fetched = fetch_pairs("web", manual.layout, FetchConfig(HTTP), Engine())
    pictures = {urlsplit(url).path for url, _ in manual.pairs}
    asked = Counter(path for path in manual.server.asked()[before:] if path.startswith("/en/"))
    assert asked == dict.fromkeys(pictures, 1)
    table = manual.rows("fetched_pairs", "web", "outcome", "url", "bytes")
    assert set(table.column("outcome").to_pylist()) == {"ok"}
    assert table.num_rows == fetched.rows == manual.found.rows
    for row in table.slice(0, 200).to_pylist():
        assert row["bytes"] == (manual.root / urlsplit(row["url"]).path[1:]).stat().st_size
