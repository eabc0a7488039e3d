"""A real S3 server process (moto's) with one bucket, and the environment that leads to it."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

BUCKET = "bucket"
_START_S = 60.0


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[dict[str, str]]:
    """A server on a free port of 127.0.0.1; this process and its children find it.

    Yields:
        The variables that were added to the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for(port, server, log)
            for name, value in environment.items():
                patch.setenv(name, value)
            fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
            yield environment
        finally:
            server.kill()
            server.wait()
            # They hold connections to the server that is gone.
            fsspec.get_filesystem_class("s3").clear_instance_cache()


def _wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.1)
