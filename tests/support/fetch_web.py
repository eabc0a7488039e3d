"""Candidates, and a server of their images, for tests of the fetch; importable everywhere."""

import http.server
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from pipelines import identity, parquet, schemas, storage
from pipelines.crawl.config import FetchConfig, HttpConfig
from pipelines.crawl.fetch import fetch_parts
from pipelines.runners import Engine

PNG = b"\x89PNG\r\n\x1a\n"
HTTP = HttpConfig(
    contact="mailto:tests@localhost",
    deadline_s=5.0,
    max_bytes=100_000,
    retries=0,
    allow_networks=("127.0.0.0/8",),
    domain_connections=64,
    domain_delay_s=0.0,
)
_RULES = ("/robots.txt", "/.well-known/tdmrep.json")


class ImageServer:
    """Serves an image of its own for every path; `asked` lists the paths but those of rules.

    `status` may give another status for a path, `image` other bytes, `pause_s` holds every answer
    back.
    """

    def __init__(self) -> None:
        server = self
        self.asked: list[str] = []
        self.status: Callable[[str], int] = lambda _: 200
        self.image: Callable[[str], bytes] = image_of
        self.pause_s = 0.0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path in _RULES:
                    self.send_error(404)
                    return
                server.asked.append(self.path)
                time.sleep(server.pause_s)
                status = server.status(self.path)
                body = server.image(self.path) if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # a client that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "ImageServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def image_of(path: str) -> bytes:
    """The bytes that the server has for a path."""
    return PNG + path.encode() * 50


def write_parts(directory: Path, urls: Sequence[str], rows: int) -> list[str]:
    """Parts of candidates with `rows` URLs each; every tenth URL has two captions."""
    parts = []
    for start in range(0, len(urls), rows):
        pairs = [
            (url, f"caption {k}")
            for i, url in enumerate(urls[start : start + rows])
            for k in range(1 + (i % 10 == 0))
        ]
        found = [
            {
                "uid": identity.uid(url, caption),
                "url": url,
                "page_url": None,
                "caption_raw": caption,
                "source": "test",
                "snapshot": None,
                "found_at": 0,
            }
            for url, caption in pairs
        ]
        batch = pa.RecordBatch.from_pylist(found, schema=schemas.IMAGE_TEXT_CANDIDATES)
        parts.append(f"{directory}/part-{len(parts):05d}.parquet")
        parquet.write(parts[-1], [batch], schemas.IMAGE_TEXT_CANDIDATES)
    return parts


def fetch(parts: Sequence[str], output: str, config: FetchConfig, content: str = "1"):
    """Fetch into `output`."""
    return fetch_parts(parts, content, output, f"{output}/_rejects", config, Engine())


def table(output: str) -> list[dict]:
    """All rows of a dataset, but for times."""
    files = storage.list_files(output, ".parquet")
    rows = [row for file in files for b in parquet.read_batches(file) for row in b.to_pylist()]
    for row in rows:
        row.pop("fetched_at")
    return rows


def outcomes(output: str) -> dict[str, str]:
    """Path to outcome."""
    return {"/" + row["url"].split("/", 3)[3]: row["outcome"] for row in table(output)}
