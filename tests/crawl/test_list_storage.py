import functools
import gzip
import http.server
import io
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from list_files import pairs, written

from pipelines.crawl.batches import ListFormat
from pipelines.crawl.sources.url_lists import ListError


def test_a_storage_that_nobody_knows_or_that_needs_a_package(tmp_path):
    with pytest.raises(ListError, match="Protocol not known"):
        pairs("nowhere://h/a.csv")


class _Failing(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 500_000:
            raise ConnectionResetError("peer")
        return super().read(min(size, 100_000))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_storage_that_fails_in_the_middle_is_no_damage_of_the_list(monkeypatch, kind):
    rows = [(f"http://h/{n}", f"caption {n * 7919}") for n in range(100_000)]
    memory = fsspec.filesystem("memory")
    with memory.open("/failing", "wb") as file:
        if kind == "csv":
            text = "url,caption\n" + "".join(f"{u},{c}\n" for u, c in rows)
            file.write(gzip.compress(text.encode(), 1))
        else:
            columns = {"url": [u for u, _ in rows], "caption": [c for _, c in rows]}
            pq.write_table(pa.table(columns), file, row_group_size=10_000, compression="none")
    data = memory.cat_file("/failing")
    monkeypatch.setattr(type(memory), "open", lambda *_: _Failing(data))
    with pytest.raises(ListError, match=r"peer\)"):
        pairs("memory://failing", format=ListFormat(kind))


def test_lists_in_memory_and_over_http(tmp_path):
    data, expected, _ = written("csv")
    fsspec.filesystem("memory").pipe_file("/lists/a.csv", gzip.compress(data))
    assert pairs("memory://lists/a.csv") == expected
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(data))
    pq.write_table(pa.table({"url": ["http://h/1"], "text": ["x"]}), tmp_path / "a.parquet")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        try:
            assert pairs(f"{root}/a.csv.gz") == expected
            assert pairs(f"{root}/a.parquet") == [("http://h/1", "x")]
            with pytest.raises(ListError, match="not there; check the path"):
                pairs(f"{root}/b.csv")
        finally:
            server.shutdown()
