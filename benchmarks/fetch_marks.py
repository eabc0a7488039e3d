"""Images a second beside img2dataset's own `download`, and memory against the number of URLs.

Both fetch one list from one server on loopback with as many threads, into Parquet, the bytes as
they are; ours with robots.txt, address checks, limits and the ledger, the domain limits raised for
the one server. Time is from the first to the last request that the server got, so neither side's
imports count. Server and clients share the machine's cores: with two, it takes a part of them from
both sides alike.

    python -m benchmarks.fetch_marks [--memory]
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.marks import Mark

_BYTES = 20_000
_THREADS = 32
_URLS = 4000
_ROUNDS = 3
_ROWS_PER_PART = 2000
_MEMORY_URLS = (1_000, 10_000, 100_000)
_MEMORY_BYTES = 2_000
_HIGH_WATER = """
import sys, re
from pipelines.crawl.fetch_cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""
_PEER = """
import json, os, sys
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


@contextlib.contextmanager
def image_server(bodies: int | str) -> Iterator[str]:
    """Address of a server of images of so many bytes, or of those in a folder."""
    command = [sys.executable, "-m", "benchmarks.image_server", str(bodies)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def _write_list(path: str, url: str, count: int) -> None:
    urls = [f"{url}/{number:07d}.png" for number in range(count)]
    table = pa.table({"url": urls, "caption": [f"picture {n}" for n in range(count)]})
    pq.write_table(table, path)


def _seconds(url: str, work: Callable[[], None], count: int) -> float:
    """Between the first and the last request that `work` made."""
    with urllib.request.urlopen(f"{url}/clock"):
        work()
    with urllib.request.urlopen(f"{url}/clock") as answer:
        clock = json.load(answer)
    if clock["count"] != count:
        raise RuntimeError(f"{clock['count']} requests for {count} images")
    return float(clock["last"] - clock["first"])


def fetch_command(source: str, output: str, processes: int = 1) -> list[str]:
    """Arguments of our fetch from this machine, after the interpreter's name."""
    return [
        "-m", "pipelines.crawl.fetch", source, "--output", output, "--quiet",
        "--allow-network", "127.0.0.0/8", "--domain-delay", "0", "--domain-connections", "1000",
        "--rows-per-part", str(_ROWS_PER_PART), "--concurrency", str(_THREADS),
        "--processes", str(processes),
    ]  # fmt: skip


def peer_command(
    source: str, output: str, processes: int = 1, changes: Mapping[str, object] | None = None
) -> list[str]:
    """Arguments of img2dataset on the same list, with `changes` of its options."""
    # A script in a file: its worker processes import it.
    script = Path(output).with_suffix(".py")
    script.write_text(_PEER)
    options = {
        "url_list": source,
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": output,
        "output_format": "parquet",
        "processes_count": processes,
        "thread_count": _THREADS,
        "number_sample_per_shard": _ROWS_PER_PART,
        "resize_mode": "no",
        "disable_all_reencoding": True,
        "compute_hash": None,
        "timeout": 10,
        "enable_wandb": False,
    }
    return [str(script), json.dumps(options | dict(changes or {}))]


def _run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def images_a_second(processes: int) -> Mark:
    """Seconds for `_URLS` images a process, beside img2dataset's multiprocessing distributor."""
    count = _URLS * processes
    seconds: tuple[list[float], list[float]] = ([], [])
    with image_server(_BYTES) as url, tempfile.TemporaryDirectory() as directory:
        source = f"{directory}/list.parquet"
        _write_list(source, url, count)
        for turn in range(_ROUNDS):
            for command, kept in zip((fetch_command, peer_command), seconds, strict=True):
                output = f"{directory}/{command.__name__}{turn}"
                kept.append(_seconds(url, partial(_run, command(source, output, processes)), count))
    name = f"{count:,} images fetched, {processes} process{'es' * (processes > 1)}"
    return Mark(name, median(seconds[0]), median(seconds[1]), "img2dataset.download", 1.0)


def one_process() -> Mark:
    """Images a second of one process."""
    return images_a_second(1)


def two_processes() -> Mark:
    """Images a second of two processes."""
    return images_a_second(2)


def memory() -> dict[int, int]:
    """Highest resident memory of the command, in kB, by the number of URLs."""
    found = {}
    with image_server(_MEMORY_BYTES) as url, tempfile.TemporaryDirectory() as directory:
        for count in _MEMORY_URLS:
            source = f"{directory}/{count}.parquet"
            _write_list(source, url, count)
            arguments = fetch_command(source, f"{directory}/{count}", 1)[2:]
            done = subprocess.run(
                [sys.executable, "-c", _HIGH_WATER, *arguments],
                check=True,
                capture_output=True,
                text=True,
            )
            found[count] = int(done.stderr.split()[-1])
    return found


def main() -> None:
    """Print the marks, or with `--memory` the memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fetch_marks", description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure the memory instead")
    if parser.parse_args().memory:
        for count, size in memory().items():
            print(f"{count:9,} URLs {size / 1024:8.1f} MB")
        return
    for mark_of in (one_process, two_processes):
        mark = mark_of()
        print(f"{mark.name:46} {mark.ours:8.2f}s {mark.peer:8.2f}s {mark.ratio:6.2f}", flush=True)


if __name__ == "__main__":
    main()
