"""Finished reports over HTTP: the files of one directory, and nothing else."""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets.lib import report_server
from assets.lib.home import UserError

OWN = "model=0123456789ab"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "evaluation"
    files = {
        tmp_path / "secret.txt": "secret",
        directory / "report.html": "<title>the newest</title>",
        directory / OWN / "report.html": "<title>an earlier one</title>",
        directory / OWN / "evaluation.json": "{}",
        directory / ".drawn/codes": "secret",
        directory / OWN / ".report.html.tmp": "secret",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def port(root: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with report_server.serving(str(root), port):
        yield port


@pytest.fixture
def server(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def asked(
    server: http.client.HTTPConnection, path: str, method: str = "GET"
) -> tuple[int, str, str]:
    """Status, content type and body of an answer; the path goes out as it is."""
    server.request(method, path)
    answer = server.getresponse()
    body = answer.read().decode()
    return answer.status, answer.headers["Content-Type"], body


def test_reports_are_served(server: http.client.HTTPConnection) -> None:
    assert asked(server, f"/{OWN}/report.html") == (
        200, "text/html", "<title>an earlier one</title>",
    )  # fmt: skip
    for path in ("/", "/report.html", "/report.html?again#1"):
        assert asked(server, path) == (200, "text/html", "<title>the newest</title>")
    assert asked(server, "/model%3D0123456789ab/evaluation.json")[1:] == ("application/json", "{}")
    assert asked(server, "/report.html", "HEAD") == (200, "text/html", "")
    assert report_server.address(OWN, "x").endswith(f"/{OWN}/x")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", f"/{OWN}/../../secret.txt", "/..%2fsecret.txt",
        "//secret.txt", "/%2Fetc/passwd", "/.drawn/codes", f"/{OWN}/.report.html.tmp", f"/{OWN}",
        f"/{OWN}/", "/report.html/", "/report.html/x", "/none.html", "/report.html%00", "/a%0ab",
    ],
)  # fmt: skip
def test_nothing_else_is(server: http.client.HTTPConnection, path: str) -> None:
    status, _, body = asked(server, path)
    assert status == 404
    assert "secret" not in body.replace("secret.txt", "")


def test_a_browser_that_leaves_is_no_error(
    root: Path, port: int, server: http.client.HTTPConnection, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "large.html").write_bytes(bytes(50_000_000))
    with socket.create_connection(("127.0.0.1", port)) as gone:
        gone.sendall(b"GET /large.html HTTP/1.0\r\n\r\n")
        assert gone.recv(12) == b"HTTP/1.0 200"
        # Closed with a reset, in the middle of the body.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert asked(server, "/report.html")[0] == 200
    end = time.monotonic() + 10
    while threading.active_count() > 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert capfd.readouterr() == ("", "")


def test_nothing_can_be_written(server: http.client.HTTPConnection, root: Path) -> None:
    for method in ("PUT", "POST", "DELETE"):
        assert asked(server, "/report.html", method)[0] == 501
    assert (root / "report.html").read_text() == "<title>the newest</title>"


def test_where_browsers_look(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DALLE_PORT", "DALLE_REPORT_PORT", "DALLE_REPORT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert report_server.address("report.html") == "http://127.0.0.1:3001/report.html"
    monkeypatch.setenv("DALLE_PORT", "4000")
    assert report_server.address() == "http://127.0.0.1:4001"
    monkeypatch.setenv("DALLE_REPORT_PORT", "5000")
    assert report_server.address() == "http://127.0.0.1:5000"
    monkeypatch.setenv("DALLE_REPORT_URL", "https://reports.example/dalle/")
    assert report_server.address("a", "b") == "https://reports.example/dalle/a/b"
    for wrong in ("reports.example", "s3://bucket/evaluation", "https://"):
        monkeypatch.setenv("DALLE_REPORT_URL", wrong)
        with pytest.raises(UserError, match=r"DALLE_REPORT_URL is .*; give the http"):
            report_server.address()
