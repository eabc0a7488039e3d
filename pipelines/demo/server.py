"""A threaded HTTP/1.1 server of the demonstration's web, for this machine only.

python -m pipelines.demo.server DIRECTORY --port 8765
"""

import argparse
import contextlib
import errno
import json
import mimetypes
import signal
import sys
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines import loopback
from pipelines.loopback import HOST

DEFAULT_PORT = 8765


class PortBusyError(OSError):
    """The port is in use by another program."""


class DemoServer(contextlib.AbstractContextManager["DemoServer"]):
    """Serves `directory`/www while its `with` block runs; the port is bound from the start.

    Attributes:
        url: the server's address, without a slash at the end.
    """

    def __init__(self, directory: str, port: int = DEFAULT_PORT, access_log: str | None = None):
        """Bind the port; 0 takes a free one.

        Args:
            directory: what `build_web` made; it may be built between this call and `with`.
            port: TCP port on 127.0.0.1.
            access_log: file that gets one JSON line a request: time, method, path, status, bytes.

        Raises:
            PortBusyError: if the port is in use.
        """
        self._directory = Path(directory).resolve()
        self._access_log = access_log
        try:
            self._server = _Server((HOST, port), _Handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortBusyError(
                f"port {port} on {HOST} is in use: stop the program that uses it, or choose "
                "another port"
            ) from error
        self.url = f"http://{HOST}:{self._server.server_port}"

    def __enter__(self) -> "DemoServer":
        self._server.load(self._directory, self._access_log)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


class _Server(loopback.Server):
    request_queue_size = 256

    def load(self, directory: Path, access_log: str | None) -> None:
        self.root = directory / "www"
        config = directory / "server.json"
        if not self.root.is_dir() or not config.is_file():
            raise FileNotFoundError(f"{directory} holds no web: build it with pipelines.demo.web")
        self.headers: list[list[str]] = json.loads(config.read_text())["headers"]
        self._log = open(access_log, "a", buffering=1) if access_log else None  # noqa: SIM115
        self._lock = threading.Lock()

    def note(self, **fields: Any) -> None:
        if self._log is not None:
            with self._lock:
                self._log.write(json.dumps({"time": round(time.time(), 3), **fields}) + "\n")

    def server_close(self) -> None:
        super().server_close()
        if getattr(self, "_log", None) is not None:
            self._log.close()  # type: ignore[union-attr]


class _Handler(loopback.Handler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Head and body leave in one write; else the kernel waits between them.
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        file = self._file(path)
        status = HTTPStatus.NOT_FOUND if file is None else HTTPStatus.OK
        body = b"not found\n" if file is None else file.read_bytes()
        kind = "text/plain" if file is None else mimetypes.guess_type(file.name)[0]
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        for prefix, name, value in self.server.headers:
            if path.startswith(prefix):
                self.send_header(name, value)
        self.end_headers()
        self.server.note(method=self.command, path=path, status=int(status), bytes=len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, path: str) -> Path | None:
        """The file of a path, or None; nothing outside the root is ever one."""
        try:
            file = (self.server.root / path.lstrip("/")).resolve()
            if file.is_dir():
                file = file / "index.html"
            return file if file.is_relative_to(self.server.root) and file.is_file() else None
        except (OSError, ValueError):
            return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; exit status 2 if that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo.server", description=__doc__)
    parser.add_argument("directory", help="what pipelines.demo.web built")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    parser.add_argument("--access-log", metavar="FILE", help="one JSON line a request")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with DemoServer(options.directory, options.port, options.access_log) as server:
            print(f"serving {options.directory} at {server.url}", flush=True)
            stop.wait()
    except (OSError, OverflowError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
