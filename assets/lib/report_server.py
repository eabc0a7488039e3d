"""Reports of evaluations over HTTP: where browsers find them, and the server of `make up`."""

import contextlib
import functools
import mimetypes
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from assets.lib.home import UserError, whole_number
from pipelines import loopback, storage
from pipelines.layout import join

WEB_PORT = 3000
_VARIABLE = "DALLE_REPORT_URL"
_NEWEST = "/report.html"
# No name begins with a dot, so a path leads neither upwards nor to what is still being written.
_PATH = re.compile(r"(/[\w=-][\w=.-]*)+", re.ASCII)


def web_port() -> int:
    """Port of the web UI (DALLE_PORT)."""
    return whole_number("DALLE_PORT", WEB_PORT)


def port() -> int:
    """Port of the reports (DALLE_REPORT_PORT), by default the one behind the web UI's."""
    return whole_number("DALLE_REPORT_PORT", web_port() + 1)


def elsewhere() -> str:
    """Address at which somebody else serves the evaluations (DALLE_REPORT_URL); empty if nobody.

    Raises:
        UserError: if it is no address that a browser opens.
    """
    url = os.environ.get(_VARIABLE, "").rstrip("/")
    if url and not re.match(r"https?://[^/]", url):
        raise UserError(
            f"{_VARIABLE} is {url!r}; give the http or https address at which the folder "
            "evaluation of the data root is served"
        )
    return url


def address(*names: str) -> str:
    """Address of a file of the evaluation, for browsers."""
    return join(elsewhere() or f"http://{loopback.HOST}:{port()}", *names)


@contextlib.contextmanager
def serving(directory: str, port: int) -> Iterator[None]:
    """Serve the files of a directory, for this machine only, while the block runs.

    Args:
        directory: a path or URL; it need not be there yet.
        port: on the loopback interface.
    """
    server = loopback.Server((loopback.HOST, port), functools.partial(_Handler, directory))
    server.start()
    try:
        yield
    finally:
        server.stop()


class _Handler(loopback.Handler):
    def __init__(self, directory: str, *connection: Any):
        self._directory = directory
        super().__init__(*connection)

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        path = _NEWEST if path == "/" else path
        body = self._content(path)
        if body is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        # A newer report takes the place of the last one.
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _content(self, path: str) -> bytes | None:
        """A file of the directory, at its time of asking; None if it is none."""
        if not _PATH.fullmatch(path):
            return None
        try:
            return storage.read_bytes(join(self._directory, path.lstrip("/")))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
