"""A part is written while the next one is fetched: what either leaves behind when it fails."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from fetch_web import HTTP, ImageServer, fetch, image_of, outcomes, table, write_parts

from pipelines.crawl.config import FetchConfig

PART = 30
CONFIG = FetchConfig(HTTP, concurrency=4)


@pytest.fixture
def server():
    with ImageServer() as server:
        yield server


def number(path: str) -> int:
    return int(path[1:5])


def candidates(server, tmp_path, parts=3):
    urls = [f"{server.url}/{i:04d}.png" for i in range(parts * PART)]
    return write_parts(tmp_path / "candidates", urls, PART)


def wait_for(found, seconds=20):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_write_error_beside_a_fetch_ends_the_run_and_the_next_goes_on(server, tmp_path):
    out = tmp_path / "out"
    parts = candidates(server, tmp_path)
    undisturbed = str(tmp_path / "undisturbed")
    fetch(parts, undisturbed, CONFIG)
    server.asked.clear()
    # The rejects are written behind the rows, and no file can take a directory's place.
    stands_in_the_way = out / "_rejects" / "part-00000.parquet"
    (stands_in_the_way / "x").mkdir(parents=True)

    def after_the_rows(path: str) -> int:
        if number(path) >= PART:
            wait_for((out / "part-00000.parquet").exists)
            time.sleep(0.02)
        return 200

    server.status = after_the_rows
    with pytest.raises(RuntimeError, match=r"IsADirectoryError.*part-00000"):
        fetch(parts, str(out), CONFIG)
    # The part that was being fetched is whole, the one behind it was not begun.
    assert sorted(map(number, server.asked)) == list(range(2 * PART))
    assert not (out / "_SUCCESS").exists()
    assert not list((out / "_receipts").glob("*"))
    assert sorted(p.name for p in (out / "_work").glob("*.sqlite")) == [
        "part-00000.sqlite",
        "part-00001.sqlite",
    ]

    (stands_in_the_way / "x").rmdir()
    stands_in_the_way.rmdir()
    server.asked.clear()
    fetch(parts, str(out), CONFIG)
    assert sorted(map(number, server.asked)) == list(range(2 * PART, 3 * PART))
    assert table(str(out)) == table(undisturbed)
    assert not (out / "_work").exists()


def test_a_fetch_error_beside_a_write_leaves_the_written_part(server, tmp_path):
    out = tmp_path / "out"
    parts = candidates(server, tmp_path)
    Path(parts[1]).rename(tmp_path / "away")
    with pytest.raises(RuntimeError, match=r"FileNotFoundError.*part-00001"):
        fetch(parts, str(out), CONFIG)
    assert [p.name for p in (out / "_receipts").iterdir()] == ["part-00000.parquet.json"]
    (tmp_path / "away").rename(parts[1])
    fetch(parts, str(out), CONFIG)
    assert sorted(map(number, server.asked)) == list(range(3 * PART))
    assert set(outcomes(str(out)).values()) == {"ok"}


def test_a_kill_while_one_part_is_written_and_the_next_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out = tmp_path / "out"
    parts = candidates(server, tmp_path)
    server.image = lambda path: image_of(path) + os.urandom(90_000) * (number(path) < PART)
    server.status = lambda path: time.sleep(0.1 * (number(path) >= PART)) or 200
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fetch_web", "img2dataset.downloader", "apache_beam"])
    process = context.Process(target=fetch, args=(parts, str(out), CONFIG))
    process.start()
    wait_for(lambda: list(out.glob(".part-00000.parquet.*.tmp")), 60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list((out / "_receipts").glob("*"))
    before = set(map(number, server.asked))
    assert set(range(PART)) <= before
    assert len(before) < 2 * PART

    server.asked.clear()
    fetch(parts, str(out), CONFIG)
    again = before & set(map(number, server.asked))
    assert all(PART <= n < 2 * PART for n in again)
    assert len(again) <= 2 * CONFIG.concurrency
    assert set(outcomes(str(out)).values()) == {"ok"}
    assert not list(out.glob("**/.*"))
    assert not (out / "_work").exists()
