from datetime import UTC, datetime

import pytest

from pipelines.crawl import img2dataset_shard
from pipelines.crawl.http_fetch import Response
from pipelines.crawl.img2dataset_shard import SEAM, fetch_shard, load_downloader
from pipelines.crawl.outcomes import Outcome


def respond(url: str) -> Response:
    if url.endswith("bad"):
        return Response(url, Outcome.TIMEOUT, "slow", ended_at=datetime.now(UTC))
    return Response(url, Outcome.OK, status=200, body=b"raw " + url.encode())


def test_order_and_bytes_are_kept(tmp_path):
    # More than a row group of the shard's writer, and failures between.
    urls = [f"http://h/{i}{'bad' if i % 7 == 0 else ''}" for i in range(250)]
    results = list(fetch_shard(load_downloader(), urls, respond, 8, str(tmp_path)))
    assert [result.response.url for result in results] == urls
    for url, (response, image) in zip(urls, results, strict=True):
        assert image == (None if url.endswith("bad") else b"raw " + url.encode())
        assert response.body is None
        assert response.detail == ("slow" if url.endswith("bad") else None)


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
    def broken(url: str) -> Response:
        raise OSError("a bug in the fetch")

    # More URLs than the worker's pool takes at once: it must not wait for ever.
    urls = [f"http://h/{i}" for i in range(50)]
    with pytest.raises(OSError, match="a bug"):
        list(fetch_shard(load_downloader(), urls, broken, 2, str(tmp_path)))
