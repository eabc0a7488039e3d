import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_web import HTTP, ImageServer, fetch, image_of, outcomes, table, write_parts

from pipelines import parquet, storage
from pipelines.crawl.config import FetchConfig
from pipelines.crawl.fetch import outcome_table
from pipelines.crawl.fetch_ledger import PartLedger
from pipelines.crawl.fetch_part import COMMIT_ROWS
from pipelines.crawl.progress import read_progress
from pipelines.locks import FileLock, InUseError

CONCURRENCY = 8
CONFIG = FetchConfig(HTTP, concurrency=CONCURRENCY)


@pytest.fixture
def server():
    with ImageServer() as server:
        yield server


def urls_of(server: ImageServer, count: int) -> list[str]:
    return [f"{server.url}/{i:04d}.png" for i in range(count)]


def some_fail(path: str) -> int:
    number = int(path[1:5])
    return 404 if number % 9 == 0 else 500 if number % 11 == 0 else 200


def recorded_paths(output: Path) -> set[str]:
    """Paths with an outcome on the disk, in ledgers and parts."""
    paths = {path for path, outcome in outcomes(str(output)).items() if outcome}
    for file in (output / "_work").glob("*.sqlite"):
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            try:
                rows = db.execute("SELECT url FROM urls").fetchall()
            except sqlite3.OperationalError:  # killed before it made its tables
                rows = []
        paths |= {"/" + url.split("/", 3)[3] for (url,) in rows}
    return paths


@pytest.mark.slow
def test_twenty_kills_lose_only_what_was_in_flight(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server.pause_s = 0.02
    server.status = some_fail
    parts = write_parts(tmp_path / "candidates", urls_of(server, 400), 100)
    undisturbed = str(tmp_path / "undisturbed")
    fetch(parts, undisturbed, CONFIG)
    server.asked.clear()

    # The slow imports are paid once, in the process that the children are forked from.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fetch_web", "img2dataset.downloader", "apache_beam"])
    moments = random.Random(7)
    output = tmp_path / "killed"
    for _ in range(20):
        recorded, before = recorded_paths(output), len(server.asked)
        process = context.Process(target=fetch, args=(parts, str(output), CONFIG))
        process.start()
        wanted = before + moments.randrange(1, 24)
        while len(server.asked) < wanted:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not recorded & set(server.asked[before:])
    fetch(parts, str(output), CONFIG)
    assert table(str(output)) == table(undisturbed)
    again = sum(n - 1 for n in Counter(server.asked).values())
    # In flight, or recorded but not committed; the other results that wait are few here.
    assert again <= 20 * (CONCURRENCY + COMMIT_ROWS)
    assert not list(tmp_path.glob("beam-*"))
    found = {path.name for path in output.iterdir()}
    assert found == {p.name for p in map(Path, parts)} | {"_SUCCESS", "_receipts", "_rejects"}
    assert not list(output.glob("**/.*"))


def test_a_second_run_asks_only_for_what_may_have_passed(server, tmp_path):
    out = str(tmp_path / "out")
    parts = write_parts(tmp_path / "candidates", urls_of(server, 40), 10)
    slow = {"/0007.png"}

    def at_first(path: str) -> int:
        if path in slow:
            time.sleep(0.6)
        return 503 if path == "/0003.png" else 500 if path == "/0025.png" else some_fail(path)

    server.status = at_first
    config = FetchConfig(replace(HTTP, deadline_s=0.5), concurrency=CONCURRENCY)
    first = fetch(parts, out, config)
    assert outcomes(out)["/0003.png"] == "throttled"
    assert outcomes(out)["/0007.png"] == "timeout"
    retryable = {
        path for path, outcome in outcomes(out).items() if outcome[:4] in ("thro", "http", "time")
    }
    assert retryable == {
        "/0003.png",
        "/0007.png",
        "/0011.png",
        "/0022.png",
        "/0025.png",
        "/0033.png",
    }
    assert first.details["retryable"] == sum(r["retryable"] for r in table(out))

    server.asked.clear()
    server.status = lambda path: 500 if path == "/0011.png" else 200
    second = fetch(parts, out, config)
    assert sorted(server.asked) == sorted(retryable)
    rows = {r["url"].rsplit("/", 1)[1]: r for r in table(out)}
    assert {rows[path[1:]]["outcome"] for path in retryable} == {"ok", "http_5xx"}
    assert {rows[path[1:]]["attempts"] for path in retryable} == {2}
    assert rows["0003.png"]["image"] == image_of("/0003.png")
    assert second.funnel.dropped == {"http_5xx": 1, "not_found": 5 + 1}
    assert {row["outcome"]: row["retryable"] for row in outcome_table(out)}["http_5xx"] == 1


def test_parts_without_retryable_rows_are_not_written_again(server, tmp_path):
    out = tmp_path / "out"
    parts = write_parts(tmp_path / "candidates", urls_of(server, 20), 10)
    server.status = lambda path: 500 if path == "/0003.png" else 404 if path == "/0013.png" else 200
    fetch(parts, str(out), CONFIG)
    before = [(out / f"part-0000{i}.parquet").stat().st_mtime_ns for i in range(2)]
    server.asked.clear()
    fetch(parts, str(out), CONFIG)
    after = [(out / f"part-0000{i}.parquet").stat().st_mtime_ns for i in range(2)]
    assert server.asked == ["/0003.png"]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_failure_is_final_after_so_many_requests(server, tmp_path):
    out = str(tmp_path / "out")
    parts = write_parts(tmp_path / "candidates", urls_of(server, 3), 10)
    server.status = lambda path: 500 if path == "/0001.png" else 200
    config = replace(CONFIG, max_attempts=2)
    for _ in range(4):
        finished = fetch(parts, out, config)
    assert Counter(server.asked)["/0001.png"] == 2
    assert finished.details["retryable"] == 0
    (row,) = [r for r in table(out) if r["outcome"] != "ok"]
    assert (row["outcome"], row["attempts"], row["retryable"]) == ("http_5xx", 2, False)
    # A higher limit gives it another try, and nothing else.
    server.asked.clear()
    fetch(parts, out, replace(config, max_attempts=3))
    assert server.asked == ["/0001.png"]


def test_settings_of_speed_ask_for_nothing(server, tmp_path):
    out = str(tmp_path / "out")
    parts = write_parts(tmp_path / "candidates", urls_of(server, 12), 10)
    server.status = lambda path: 404 if path == "/0001.png" else 200
    first = fetch(parts, out, CONFIG)
    server.asked.clear()
    faster = replace(HTTP, deadline_s=7, domain_delay_s=0.1, domain_connections=3, processes=2)
    faster = replace(faster, contact="mailto:other@localhost", nameservers=("127.0.0.1",))
    assert fetch(parts, out, FetchConfig(faster, concurrency=3)) == first
    assert server.asked == []


def test_settings_that_decide_have_failures_tried_again(server, tmp_path):
    out = str(tmp_path / "out")
    parts = write_parts(tmp_path / "candidates", urls_of(server, 12), 10)
    server.status = lambda path: 404 if path == "/0001.png" else 200
    fetch(parts, out, CONFIG)
    server.asked.clear()
    finished = fetch(parts, out, replace(CONFIG, http=replace(HTTP, max_bytes=90_000)))
    assert server.asked == ["/0001.png"]
    assert finished.funnel.kept == finished.rows - 1
    # Bytes over a new limit go without a request, those under it stay.
    server.asked.clear()
    small = fetch(parts, out, replace(CONFIG, http=replace(HTTP, max_bytes=100)))
    assert server.asked == ["/0001.png"]
    assert small.funnel.kept == 0
    assert set(outcomes(out).values()) == {"too_large", "not_found"}


def test_a_longer_takedown_list_removes_bytes_without_a_request(server, tmp_path):
    out = str(tmp_path / "out")
    parts = write_parts(tmp_path / "candidates", urls_of(server, 12), 10)
    server.status = lambda path: 404 if path == "/0009.png" else 200
    fetch(parts, out, CONFIG)
    rows = {r["url"]: r for r in table(out)}
    by_url, by_hash = f"{server.url}/0002.png", f"{server.url}/0004.png"
    listed = tmp_path / "takedown.txt"
    listed.write_text(f"{by_url}\n{rows[by_hash]['image_sha256'].hex()}\n")
    server.asked.clear()
    config = replace(CONFIG, takedown=str(listed))
    finished = fetch(parts, out, config)
    assert server.asked == []
    gone = {r["url"]: r for r in table(out) if r["outcome"] == "opted_out"}
    assert set(gone) == {by_url, by_hash}
    for row in gone.values():
        assert row["opt_out_signal"] == "takedown_list"
        assert (row["image"], row["image_sha256"], row["bytes"]) == (None, None, None)
    assert finished.funnel.dropped == {"not_found": 1, "opted_out": 2}
    # Shorter again: what is not listed any more is fetched, what still is stays away.
    listed.write_text(f"{by_url}\n")
    fetch(parts, out, config)
    assert server.asked == ["/0004.png"]
    assert {r["url"] for r in table(out) if r["outcome"] == "opted_out"} == {by_url}


def test_new_candidates_do_not_fetch_the_known_ones_again(server, tmp_path):
    out = str(tmp_path / "out")
    urls = urls_of(server, 20)
    server.status = lambda path: 404 if path == "/0005.png" else 200
    fetch(write_parts(tmp_path / "a", urls[:15], 100), out, CONFIG)
    server.asked.clear()
    fetch(write_parts(tmp_path / "b", urls[3:], 100), out, CONFIG, content="2")
    assert sorted(server.asked) == [f"/{i:04d}.png" for i in range(15, 20)]
    assert {r["url"] for r in table(out)} == set(urls[3:])
    assert all(r["image"] for r in table(out) if r["outcome"] == "ok")


def test_a_ledger_left_after_the_marker_does_not_stand_in_the_way(server, tmp_path):
    out = tmp_path / "out"
    parts = write_parts(tmp_path / "candidates", urls_of(server, 5), 100)
    server.status = lambda _: 500
    fetch(parts, str(out), CONFIG)
    about = parquet.read_schema(f"{out}/part-00000.parquet").metadata
    (out / "_work").mkdir()
    left = PartLedger(
        f"{out}/_work/part-00000.sqlite",
        about[b"fetch_settings"].decode(),
        about[b"fetch_takedown"].decode(),
    )
    for row in table(str(out)):
        left.record(row["url"], row | {"fetched_at": 0}, None)
    left.close()
    server.status = lambda _: 200
    assert fetch(parts, str(out), CONFIG).funnel.dropped == {}
    assert not (out / "_work").exists()


def test_a_damaged_ledger_is_set_aside_and_its_part_fetched(server, tmp_path, caplog):
    out = tmp_path / "out"
    parts = write_parts(tmp_path / "candidates", urls_of(server, 5), 100)
    (out / "_work").mkdir(parents=True)
    (out / "_work" / "part-00000.sqlite").write_bytes(os.urandom(100_000))
    assert fetch(parts, str(out), CONFIG).funnel.dropped == {}
    assert "is damaged" in caplog.text
    assert not (out / "_work").exists()


def test_two_processes_do_not_fetch_into_one_output(server, tmp_path):
    out = tmp_path / "out"
    parts = write_parts(tmp_path / "candidates", urls_of(server, 5), 100)
    (out / "_work").mkdir(parents=True)
    lock = FileLock(str(out / "_work" / "lock"), "taken")
    with pytest.raises(InUseError, match="another process is fetching into"):
        fetch(parts, str(out), CONFIG)
    assert server.asked == []
    lock.release()
    fetch(parts, str(out), CONFIG)
    assert len(server.asked) == 5


def test_progress_is_seen_while_parts_are_fetched(server, tmp_path):
    out = str(tmp_path / "out")
    parts = write_parts(tmp_path / "candidates", urls_of(server, 60), 20)
    server.pause_s = 0.05
    seen = []

    def status(path: str) -> int:
        seen.append(read_progress(out))
        return some_fail(path)

    server.status = status
    fetch(parts, out, FetchConfig(HTTP, concurrency=2))
    urls = [counts.urls for counts in seen]
    assert urls == sorted(urls)
    assert len(set(urls)) > 20
    done = read_progress(out)
    assert done.urls == 60
    assert done.images == Counter(map(some_fail, outcomes(out)))[200]


def test_files_of_killed_writers_are_removed(server, tmp_path):
    out = tmp_path / "out"
    parts = write_parts(tmp_path / "candidates", urls_of(server, 5), 100)
    out.mkdir()
    (out / ".part-00000.parquet.0123.tmp").write_bytes(b"half")
    fetch(parts, str(out), CONFIG)
    assert not list(out.glob("**/.*"))
    assert parquet.read_schema(f"{out}/part-00000.parquet").metadata[b"fetch_settings"]
    assert storage.list_files(str(out), ".parquet") == [f"{out}/part-00000.parquet"]
