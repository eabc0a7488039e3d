import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fetch_web import ImageServer, outcomes, table, write_parts

from pipelines import identity, schemas, storage
from pipelines.crawl import fetch_cli
from pipelines.crawl.fetch_part import COMMIT_ROWS
from pipelines.ledger import Finished, Funnel

LOOPBACK = (
    "--allow-network", "127.0.0.0/8", "--domain-delay", "0", "--domain-connections", "64",
    "--retries", "0",
)  # fmt: skip


@pytest.fixture
def server():
    with ImageServer() as server:
        server.status = lambda path: 404 if path.endswith("7.png") else 200
        yield server


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.crawl.fetch", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, check=False
    )


def urls_of(server: ImageServer, count: int) -> list[str]:
    return [f"{server.url}/{i:04d}.png" for i in range(count)]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_failures_are_a_table_and_no_error(server, tmp_path):
    write_parts(tmp_path / "candidates", urls_of(server, 30), 10)
    out = tmp_path / "out"
    done = run(tmp_path / "candidates", "--output", out, *LOOPBACK)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[:2] == ["ok", "30"]
    assert lines[2].split()[:4] == ["not_found", "3", "9.1%", "0"]
    assert lines[2].endswith("7.png: HTTP status 404")
    assert lines[3].startswith("27 images")
    # No bar where nobody looks; the input has no marker, which is said.
    assert done.stderr.count("\n") == 1
    assert "no _SUCCESS" in done.stderr
    found = pq.read_table(out / "part-00000.parquet")
    assert schemas.violations(schemas.FETCHED_PAIRS, found.schema) == []
    assert (out / "_SUCCESS").exists()
    assert pq.read_table(out / "_rejects").num_rows == 3
    again = run(tmp_path / "candidates", "--output", out, *LOOPBACK, "--concurrency", 3)
    assert again.stdout == done.stdout
    assert len(server.asked) == 30


def test_an_address_that_is_not_public_is_said_to_be_one(server, tmp_path):
    write_parts(tmp_path / "candidates", urls_of(server, 3), 10)
    done = run(tmp_path / "candidates", "--output", tmp_path / "out")
    assert done.returncode == 0
    assert "unsafe_address" in done.stdout
    words = "4 rows are at addresses that are not public, such as 127.0.0.1;"
    assert words in done.stderr
    assert "--allow-network 127.0.0.1" in done.stderr
    assert server.asked == []


def test_parts_that_are_gone_are_a_mistake(server, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("url,caption\n" + "".join(f"{u},a {u}\n" for u in urls_of(server, 4)))
    made = [sys.executable, "-m", "pipelines.crawl.candidates", listed, "--rows-per-part", "1"]
    candidates, out = tmp_path / "candidates", tmp_path / "out"
    subprocess.run([*made, "--output", candidates], check=True, capture_output=True)
    one, *others = sorted(candidates.glob("*.parquet"))
    assert others
    one.unlink()
    done = run(candidates, "--output", out, *LOOPBACK)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "lacks parts" in done.stderr
    assert server.asked == []
    # Some of them alone are what was asked for.
    done = run(*others, "--output", out, *LOOPBACK)
    assert done.returncode == 0, done.stderr


def test_what_a_terminal_would_obey_is_not_printed(tmp_path, capsys):
    receipt = {
        "funnel": {},
        "figures": {"outcomes": {"dns": {"rows": 1, "retryable": 0, "example": "x\x1b[2Jy\nz"}}},
    }
    storage.write_json(str(tmp_path / "_receipts" / "part-00000.parquet.json"), receipt)
    details = {"images_per_second": None, "images": 0, "image_bytes": 0, "urls": 1}
    funnel = Funnel(1, 0, {"dns": 1})
    fetch_cli._print_table(str(tmp_path), Finished("d", "f", "c", 1, 1, funnel, details))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "x\\x1b[2Jy\\x0az" in printed


@pytest.mark.slow
def test_other_parquet_files_in_two_processes(server, tmp_path):
    urls = urls_of(server, 40)
    names = [f"picture {i}" for i in range(40)]
    laion = pa.table({"URL": [*urls, "mailto:x", urls[0]], "TEXT": [*names, "y", names[0]]})
    pq.write_table(laion, tmp_path / "laion.parquet", row_group_size=7)
    out = tmp_path / "out"
    arguments = (tmp_path / "laion.parquet", "--output", out, "--rows-per-part", 10)
    done = run(*arguments, *LOOPBACK, "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(server.asked) == sorted(url[len(server.url) :] for url in urls)
    rows = table(str(out))
    assert {row["uid"] for row in rows} == {
        identity.uid(url, name) for url, name in zip(urls, names, strict=True)
    }
    assert "invalid_url" in done.stdout
    assert sum(outcome == "ok" for outcome in outcomes(str(out)).values()) == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "processes"), [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)]
)
def test_an_interrupted_command_goes_on(server, tmp_path, monkeypatch, number, processes):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    write_parts(tmp_path / "candidates", urls_of(server, 200), 50)
    out = tmp_path / "out"
    server.pause_s = 0.05
    speed = ("--concurrency", 4, "--processes", processes)
    arguments = command(tmp_path / "candidates", "--output", out, *LOOPBACK, *speed)
    # The tests themselves may run under nohup, whose children ignore SIGHUP.
    process = subprocess.Popen(
        arguments,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    wait_until(lambda: len(server.asked) > 30)
    children = psutil.Process(process.pid).children(recursive=True)
    assert bool(children) == (processes > 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=5)
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in alive)
    server.pause_s = 0.0
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(outcomes(str(out))) == 200
    assert 200 <= len(server.asked) <= 200 + processes * (4 + COMMIT_ROWS)
    # What Beam and wandb make for themselves was with the output, and went with it.
    assert not list((tmp_path / "temporary").glob("*"))
    assert not (out / "_work").exists()
    assert not list(out.glob("**/.*"))


def test_a_bar_is_drawn_on_a_terminal(server, tmp_path):
    write_parts(tmp_path / "candidates", urls_of(server, 20), 10)
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (25, 100))
    arguments = command(tmp_path / "candidates", "--output", tmp_path / "out", *LOOPBACK)
    process = subprocess.Popen(arguments, stderr=its, stdout=subprocess.DEVNULL)
    os.close(its)
    drawn = b""
    while True:
        try:
            piece = os.read(ours, 1000)
        except OSError:  # Linux ends a terminal like this
            break
        drawn += piece
    assert process.wait() == 0
    assert b"20/20" in drawn
    assert b"90.0% ok" in drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "--output", "out"), "nowhere is neither a Parquet file nor a directory"),
        (("web", "--output", "out"), "needs --contact"),
        (("web", "--output", "out", "--allow-network", "127.0.0.0/8"), "needs --contact"),
        (("local", "--output", "out", "--allow-network", "127.0.0.0/99"), "127.0.0.0/99"),
        (("local", "--output", "out", "--takedown", "none.txt"), "none.txt"),
        (("local", "--output", "out", "--agent", "no spaces"), "agent may hold letters"),
        (("text.parquet", "--output", "out"), "is not a Parquet file"),
        (("local", "local", "--output", "out"), "named twice"),
        (("odd.parquet", "--output", "out"), "url_column"),
        (("local",), "--output"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_parts(Path("web"), ["http://example.org/a.png"], 10)
    write_parts(Path("local"), ["http://127.0.0.1:1/a.png"], 10)
    Path("text.parquet").write_text("caption,url\n")
    pq.write_table(pa.table({"a": ["x"]}), "odd.parquet")
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if "--output" in arguments:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")
