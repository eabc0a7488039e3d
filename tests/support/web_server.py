"""A real web server over a folder, on a free port of 127.0.0.1: nginx, else Python's."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_packages import unpacked

_LIBRARIES = ("libpcre2-8-0", "libssl3", "libcrypt1", "zlib1g")
_CONFIG = """
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{}}
http {{
  types {{
    text/html html; text/xml xml; image/png png; image/jpeg jpg; image/svg+xml svg;
    text/css css; application/gzip gz;
  }}
  log_format paths '$request_uri $status';
  access_log {work}/access.log paths;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""
_PYTHON = """
import functools, http.server, sys

class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_request(self, code="-", size="-"):
        log.write(f"{self.path} {int(code)}\\n"); log.flush()

root, port, path = sys.argv[1:]
log = open(path, "a")
handler = functools.partial(Handler, directory=root)
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler).serve_forever()
"""


class WebServer:
    """A running server.

    Attributes:
        url: its address, without a slash at the end.
        kind: `nginx` or `python`.
    """

    def __init__(self, url: str, kind: str, log: Path):
        """Made by `serving`."""
        self.url, self.kind, self._log = url, kind, log

    def asked(self) -> list[str]:
        """Paths of all requests so far, in order; the last ones may come a moment late."""
        return [line.split()[0] for line in self._log.read_text().splitlines()]


@contextlib.contextmanager
def serving(root: Path, work: Path, *, nginx: bool = True) -> Iterator[WebServer]:
    """Serve `root` while the block runs; `work` gets the server's own files."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / "access.log"
    log.touch()
    port = _free_port()
    found = _nginx() if nginx else None
    if found is not None:
        program, libraries = found
        config = work / "nginx.conf"
        config.write_text(_CONFIG.format(work=work, root=root, port=port))
        command = [program, "-p", str(work), "-e", f"{work}/error.log", "-c", str(config)]
        environment = os.environ | ({"LD_LIBRARY_PATH": libraries} if libraries else {})
    else:
        command = [sys.executable, "-c", _PYTHON, str(root), str(port), str(log)]
        environment = dict(os.environ)
    with open(work / "output.log", "w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    server = WebServer(f"http://127.0.0.1:{port}", "nginx" if found else "python", log)
    try:
        _wait(process, port, work)
        yield server
    finally:
        # Nothing is lost with a server that only reads; a busy machine may be late with SIGTERM.
        process.kill() if found is None else process.terminate()
        process.wait(30)


def _nginx() -> tuple[str, str] | None:
    """The program and its LD_LIBRARY_PATH: the system's, or one from Debian's packages."""
    installed = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if installed:
        return installed, ""
    try:
        program = unpacked("nginx") / "usr" / "sbin" / "nginx"
        if _runs(str(program), ""):
            return str(program), ""
        folders = {
            str(file.parent) for name in _LIBRARIES for file in unpacked(name).rglob("lib*.so.*")
        }
    except pytest.skip.Exception:
        return None
    libraries = ":".join(sorted(folders))
    return (str(program), libraries) if _runs(str(program), libraries) else None


def _runs(program: str, libraries: str) -> bool:
    environment = os.environ | ({"LD_LIBRARY_PATH": libraries} if libraries else {})
    try:
        done = subprocess.run([program, "-v"], env=environment, capture_output=True, timeout=30)
    except OSError:
        return False
    return done.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, work: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server stopped: {(work / 'output.log').read_text()[-500:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("the server did not open its port")
