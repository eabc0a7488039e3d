import os
from collections import Counter

import pytest
from fetch_web import HTTP, ImageServer, fetch, outcomes, table, write_parts

from pipelines import storage
from pipelines.crawl.config import FetchConfig
from pipelines.crawl.fetched_earlier import EarlierPart, keep_readable

CONFIG = FetchConfig(HTTP, concurrency=8)


@pytest.fixture
def server():
    with ImageServer() as server:
        yield server


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = f"memory://{tmp_path.name}/out"
    yield url
    storage.remove(f"memory://{tmp_path.name}", recursive=True)


def parts_of(server, directory, count: int) -> list[str]:
    return write_parts(directory, [f"{server.url}/{i:04d}.png" for i in range(count)], 10)


@pytest.mark.parametrize("cut", ["truncated", "overwritten", "removed", "empty"])
def test_a_part_that_was_damaged_is_fetched_again(server, tmp_path, caplog, cut):
    out = tmp_path / "out"
    parts = parts_of(server, tmp_path / "candidates", 20)
    server.status = lambda path: 500 if path == "/0003.png" else 200
    fetch(parts, str(out), CONFIG)
    part = out / "part-00000.parquet"
    whole = part.read_bytes()
    if cut == "removed":
        part.unlink()
    elif cut == "overwritten":
        part.write_bytes(os.urandom(len(whole) - 2000) + whole[-2000:])
    else:
        part.write_bytes(whole[: len(whole) // 2] if cut == "truncated" else b"")
    server.asked.clear()
    server.status = lambda _: 200
    assert fetch(parts, str(out), CONFIG).funnel.dropped == {}
    assert sorted(server.asked) == [f"/{i:04d}.png" for i in range(10)]
    assert ("is damaged" in caplog.text) == (cut != "removed")
    assert len(outcomes(str(out))) == 20


def test_a_part_that_is_gone_from_a_finished_dataset_is_made_again(server, tmp_path):
    out = tmp_path / "out"
    parts = parts_of(server, tmp_path / "candidates", 20)
    first = fetch(parts, str(out), CONFIG)
    (out / "part-00001.parquet").unlink()
    server.asked.clear()
    assert fetch(parts, str(out), CONFIG).rows == first.rows
    assert len(server.asked) == 10


@pytest.mark.parametrize("text", ["{}", "[]", "", "null", '{"fingerprint": "x"}'])
def test_a_receipt_that_says_nothing_counts_as_none(server, tmp_path, text):
    out = tmp_path / "out"
    parts = parts_of(server, tmp_path / "candidates", 20)
    first = fetch(parts, str(out), CONFIG)
    (out / "_receipts" / "part-00000.parquet.json").write_text(text)
    (out / "_SUCCESS").unlink()
    server.asked.clear()
    assert fetch(parts, str(out), CONFIG).funnel == first.funnel
    assert server.asked == []


def test_a_store_that_shows_unfinished_files_loses_nothing(server, tmp_path, remote):
    parts = parts_of(server, tmp_path / "candidates", 20)
    server.status = lambda path: 500 if path == "/0003.png" else 200
    fetch(parts, remote, CONFIG)
    server.asked.clear()
    server.status = lambda _: 200
    assert fetch(parts, remote, CONFIG).funnel.dropped == {}
    assert server.asked == ["/0003.png"]
    assert all(row["image"] for row in table(remote))
    assert Counter(outcomes(remote).values()) == {"ok": 20}
    assert not list(tmp_path.glob("dalle-graph-*/*"))


def test_the_copy_of_before_a_kill_is_kept(server, tmp_path, remote):
    parts = parts_of(server, tmp_path / "candidates", 10)
    fetch(parts, remote, CONFIG)
    part, copy = f"{remote}/part-00000.parquet", str(tmp_path / "copy")
    assert keep_readable(part, copy) == copy
    storage.write_bytes(part, b"half")
    assert len(EarlierPart(keep_readable(part, copy)).rows) == 10
