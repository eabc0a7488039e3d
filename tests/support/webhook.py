"""A server on this machine to which alerts are posted."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer


@dataclass
class Webhook:
    """A server that answers each post with the next of `answers`, then with 204.

    `told` is what it took, in order; what it refused is in `posts` only.
    """

    url: str = ""
    answers: list[int] = field(default_factory=list)
    told: list[dict[str, object]] = field(default_factory=list)
    posts: int = 0


@contextlib.contextmanager
def webhook_server() -> Iterator[Webhook]:
    found = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.posts += 1
            status = found.answers.pop(0) if found.answers else 204
            if status == 204:
                found.told.append(body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}/hook/s3cret"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
