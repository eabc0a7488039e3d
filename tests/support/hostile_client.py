"""Fetches what a list on standard input names, in a process of its own, and reports on it.

In: {"config": {...}, "urls": {name: url}}; out: {"results": {name: [outcome, detail, seconds,
bytes, url, attempts]}, "peak_mb": resident memory at its highest}.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.crawl.config import HttpConfig
from pipelines.crawl.http.client import HttpClient, sniff_image
from pipelines.crawl.http.outcomes import Outcome


def main() -> None:
    task = json.load(sys.stdin)
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in task["config"].items()}
    client = HttpClient(HttpConfig(**lists))

    def fetch(url: str) -> list[object]:
        started = time.monotonic()
        got = client.get(url, sniff_image, Outcome.NOT_AN_IMAGE)
        seconds = time.monotonic() - started
        size = len(got.body or b"")
        return [got.outcome, got.detail, seconds, size, got.url, got.attempts]

    with ThreadPoolExecutor(12) as pool:
        results = dict(zip(task["urls"], pool.map(fetch, task["urls"].values()), strict=True))
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    json.dump({"results": results, "peak_mb": peak}, sys.stdout)


if __name__ == "__main__":
    main()
