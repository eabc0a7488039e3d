import http.server
import subprocess
import sys
import threading
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fetch_web import PNG, write_parts

from pipelines import identity

COUNT = 60
PART = 20  # so that parts are written while others are fetched
BODY = PNG + bytes(19_000_000)
# Beside the command's modules: 100 MB of bodies that wait, some are copied on their way to the
# ledger, and those of another part from there to Parquet. All that may wait in the pool would be
# 2.2 GB.
MOST_KB = 700_000
COMMAND = """
import re, runpy, sys
try:
    runpy.run_module("pipelines.crawl.fetch", run_name="__main__", alter_sys=True)
finally:
    print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, *arguments, length: bool):
        self._length = length
        super().__init__(*arguments)

    def do_GET(self):
        if not self.path.endswith(".png"):
            self.send_error(404)
            return
        self.send_response(200)
        if self._length:
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def begin(length: bool) -> str:
        handler = partial(Handler, length=length)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def modules_kb(tmp_path_factory):
    """What the command takes without images: most is torch's, more for a GPU than for none."""
    place = tmp_path_factory.mktemp("none")
    write_parts(place / "candidates", ["http://127.0.0.1:9/0.png"], 1)
    return peak_kb(place, 0)


@pytest.mark.slow
@pytest.mark.parametrize("length", [True, False])
def test_memory_does_not_follow_the_size_of_images(serve, tmp_path, modules_kb, length):
    url = serve(length)
    write_parts(tmp_path / "candidates", [f"{url}/{i}.png" for i in range(COUNT)], PART)
    assert peak_kb(tmp_path, COUNT) - modules_kb < MOST_KB


@pytest.mark.slow
def test_memory_does_not_follow_the_captions_of_one_image(serve, tmp_path, modules_kb):
    (part,) = write_parts(tmp_path / "candidates", [f"{serve(True)}/0.png"], 1)
    (first, _) = pq.read_table(part).to_pylist()
    captions = [f"caption {i}" for i in range(COUNT)]
    rows = [first | {"uid": identity.uid(first["url"], c), "caption_raw": c} for c in captions]
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(part)), part)
    assert peak_kb(tmp_path, 1) - modules_kb < MOST_KB
    file = pq.ParquetFile(tmp_path / "out" / "part-00000.parquet")
    assert file.metadata.num_rows == COUNT
    assert file.metadata.num_row_groups >= COUNT / 4


def peak_kb(tmp_path, images: int) -> int:
    """Memory that the command took at most, with as many images as it has to find."""
    out = tmp_path / "out"
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND, tmp_path / "candidates", "--output", out),
            *("--allow-network", "127.0.0.0/8", "--domain-delay", "0"),
            *("--domain-connections", "64", "--deadline", "60"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"\n{images:,} images" in done.stdout, done.stderr
    (peak,) = [line for line in done.stdout.splitlines() if line.startswith("peak")]
    print(peak)
    return int(peak.split()[1])
