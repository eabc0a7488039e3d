import http.client
import json
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from pipelines.demo.server import DemoServer, PortBusyError, main


@pytest.fixture
def directory(tmp_path):
    www = tmp_path / "site" / "www"
    (www / "closed").mkdir(parents=True)
    (www / "index.html").write_text("<p>hello")
    (www / "ä b.png").write_bytes(b"png")
    (www / "closed" / "a.png").write_bytes(b"closed")
    headers = {"headers": [["/closed/", "X-Robots-Tag", "noai"]]}
    (tmp_path / "site" / "server.json").write_text(json.dumps(headers))
    (tmp_path / "secret.txt").write_text("secret")
    (www / "link").symlink_to(tmp_path / "secret.txt")
    return tmp_path / "site"


@pytest.fixture
def server(directory):
    with DemoServer(str(directory), 0, str(directory / "log")) as server:
        yield server


def connection(server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)


def test_one_connection_serves_many_requests(server, directory):
    to_server = connection(server)
    answers = []
    for path in ("/", "/%C3%A4%20b.png", "/closed/a.png", "/none", "/closed"):
        to_server.request("GET", path)
        answer = to_server.getresponse()
        kind, tag = answer.getheader("Content-Type"), answer.getheader("X-Robots-Tag")
        answers.append((answer.status, kind, tag, answer.read()))
        sock = to_server.sock
    assert sock is to_server.sock is not None
    assert answers == [
        (200, "text/html", None, b"<p>hello"),
        (200, "image/png", None, b"png"),
        (200, "image/png", "noai", b"closed"),
        (404, "text/plain", None, b"not found\n"),
        (404, "text/plain", None, b"not found\n"),
    ]
    log = [json.loads(line) for line in (directory / "log").read_text().splitlines()]
    assert [(line["path"], line["status"]) for line in log][2:4] == [
        ("/closed/a.png", 200),
        ("/none", 404),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/../server.json",
        "/../../secret.txt",
        "/%2e%2e/server.json",
        "//etc/passwd",
        "/link",
        "/%00",
    ],
)
def test_nothing_outside_is_served(server, path):
    to_server = connection(server)
    to_server.request("GET", path)
    assert to_server.getresponse().status == 404


def test_a_client_that_leaves_early_is_logged_without_noise(server, directory, capfd):
    (directory / "www" / "large.bin").write_bytes(bytes(20_000_000))
    for _ in range(3):
        to_server = connection(server)
        to_server.request("GET", "/large.bin")
        to_server.getresponse().read(10)
        to_server.close()
    assert (directory / "log").read_text().count("/large.bin") == 3
    to_server = connection(server)
    to_server.request("GET", "/")
    assert to_server.getresponse().status == 200
    assert capfd.readouterr().err == ""


def test_a_busy_port_is_said_in_one_sentence(server, directory, capsys):
    port = urlsplit(server.url).port
    with pytest.raises(PortBusyError, match=f"port {port} on 127.0.0.1 is in use"):
        DemoServer(str(directory), port)
    assert main([str(directory), "--port", str(port)]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_a_directory_without_a_web_is_said(tmp_path, capsys):
    assert main([str(tmp_path), "--port", "0"]) == 2
    assert "holds no web" in capsys.readouterr().err


def test_the_command_serves_until_it_is_told_to_stop(directory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipelines.demo.server", str(directory), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == f"serving {directory} at http://127.0.0.1:{port}\n"
        to_server = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        to_server.request("HEAD", "/")
        assert to_server.getresponse().getheader("Content-Length") == "8"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
