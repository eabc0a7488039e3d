import threading

import pytest

from pipelines.crawl import img2dataset_shard
from pipelines.crawl.byte_budget import ByteBudget
from pipelines.crawl.http.outcomes import Outcome
from pipelines.crawl.img2dataset_shard import SEAM, Fetched, fetch_shard, load_downloader


def respond(url: str) -> Fetched:
    if url.endswith("bad"):
        return Fetched(Outcome.TIMEOUT, None, {"url": url})
    return Fetched(Outcome.OK, b"raw " + url.encode(), {"url": url})


def test_every_result_arrives_once_with_its_bytes(tmp_path):
    urls = [f"http://h/{i}{'bad' if i % 7 == 0 else ''}" for i in range(250)]
    arrived: dict[str, Fetched] = {}
    threads = set()

    def record(url: str, result: Fetched, waiting: int) -> None:
        assert url not in arrived
        assert waiting <= 16
        arrived[url] = result
        threads.add(threading.get_ident())

    counted = fetch_shard(load_downloader(), urls, respond, record, 8, str(tmp_path))
    assert arrived == {url: respond(url) for url in urls}
    assert threads == {threading.get_ident()}
    assert counted.outcomes == {"timeout": 36, "ok": 214}
    assert 0 < counted.ended - counted.started < 60


def test_a_record_that_fails_ends_the_shard(tmp_path):
    asked: list[str] = []

    def fetch(url: str) -> Fetched:
        asked.append(url)
        return respond(url)

    def record(url: str, result: Fetched, waiting: int) -> None:
        raise OSError("the disk is full")

    urls = [f"http://h/{i}" for i in range(500)]
    with pytest.raises(OSError, match="disk is full"):
        fetch_shard(load_downloader(), urls, fetch, record, 4, str(tmp_path))
    # At most what the pool had taken already: nothing is asked for that cannot be kept.
    assert len(asked) <= 100


def test_the_seam_is_where_it_was():
    downloader = load_downloader()
    module = __import__("img2dataset.downloader", fromlist=[SEAM])
    # Nothing is patched: the module still has its own function.
    assert getattr(module, SEAM).__module__ == "img2dataset.downloader"
    names = [
        name
        for code in downloader.download_shard.__code__.co_consts
        if hasattr(code, "co_names")
        for name in code.co_names
    ]
    assert SEAM in names


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(img2dataset_shard, "SEAM_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match=r"install img2dataset==1\.47\.0"):
        load_downloader()


def test_a_fetch_that_fails_is_not_lost_without_a_word(tmp_path):
    def broken(url: str) -> Fetched:
        raise OSError("a bug in the fetch")

    # More URLs than the worker's pool takes at once: it must not wait for ever.
    urls = [f"http://h/{i}" for i in range(50)]
    with pytest.raises(OSError, match="a bug"):
        fetch_shard(load_downloader(), urls, broken, lambda *_: None, 2, str(tmp_path))


@pytest.mark.parametrize("fails", [False, True])
def test_bodies_over_the_budget_wait_and_never_for_ever(tmp_path, fails):
    budget = ByteBudget(100)
    lock = threading.Lock()
    held = [0, 0]

    def fetch(url: str) -> Fetched:
        # The first body of all is larger than the budget: it fits alone.
        size = 150 if url.endswith("/0") else 40
        budget.take(size)
        with lock:
            held[0] += size
            held[1] = max(held)
        return Fetched(Outcome.OK, bytes(size), {})

    def record(url: str, result: Fetched, waiting: int) -> None:
        if fails:
            raise OSError("the disk is full")
        with lock:
            held[0] -= len(result.body or b"")

    urls = [f"http://h/{i}" for i in range(60)]
    arguments = (load_downloader(), urls, fetch, record, 8, str(tmp_path), budget)
    if fails:
        with pytest.raises(OSError, match="disk is full"):
            fetch_shard(*arguments)
    else:
        fetch_shard(*arguments)
        assert held == [0, 150]
