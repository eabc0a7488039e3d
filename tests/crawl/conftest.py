import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from hostile import HostileServer

from pipelines.crawl.config import HttpConfig

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


class Site:
    """A server on loopback whose pages are functions; `asked` lists the paths in order."""

    def __init__(self) -> None:
        site = self
        self.asked: list[str] = []
        self.replies: dict[str, Reply] = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                reply = site.replies.get(self.path, lambda h: h.send_error(404))
                reply(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # A client that goes away in the middle is what many tests are about.
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in ({"Content_Length": str(len(body))} | headers).items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.replies[path] = reply
        return self.url + path


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def http_config() -> HttpConfig:
    return HttpConfig(
        contact="mailto:tests@localhost",
        deadline_s=2.0,
        max_bytes=100_000,
        domain_delay_s=0.0,
        allow_networks=("127.0.0.0/8",),
    )


@pytest.fixture
def hosts() -> Iterator[Callable[[str], HostileServer]]:
    """Makes servers at given addresses."""
    made: list[HostileServer] = []

    def make(address: str) -> HostileServer:
        made.append(HostileServer(address))
        return made[-1]

    yield make
    for server in made:
        server.close()
