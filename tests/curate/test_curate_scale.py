"""The stage on other engines, in another order, and over more rows."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, read_all, row
from torture_images import picture

from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

CONFIG = CurateConfig(min_side=32, min_bytes=100, short_side=48, max_image_urls=3)
NAMES = sorted(artwork())[::60]
# Between the peaks of N and 4 N pairs; 3 N files of the large picture are over 60 MB.
SLACK_MB = 20
PAIRS, LARGE = 80, (520, 400)


def pairs() -> list[dict[str, object]]:
    """Kept pairs, a caption and a file that are dropped, and a placeholder."""
    found = [row(n, f"{name} as an emoji", artwork()[name]) for n, name in enumerate(NAMES)]
    found += [row(900, "sale sale sale", artwork()["rocket"])]
    found += [row(901, "a picture of the sea", encoded(picture())[:-900])]
    found += [row(910 + n, f"the number {n} of a row", artwork()["sailboat"]) for n in range(4)]
    return found


def file_hashes(layout: Layout) -> dict[str, str]:
    """SHA-256 of every Parquet file that the stage wrote."""
    folders = [Path(layout.dataset("curated_pairs", "a")), Path(layout.rejects("curate", "a"))]
    files = [path for folder in folders for path in sorted(folder.glob("*.parquet"))]
    return {f"{p.parent.parent.name}/{p.name}": _sha256(p) for p in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(
    folder: Path, shards: list[list[dict[str, object]]], engine: Engine | None = None
) -> Layout:
    layout = Layout(str(folder))
    fetched_pairs(layout, "a", *shards)
    curate_pairs("a", layout, CONFIG, engine or Engine())
    return layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return run(tmp_path_factory.mktemp("scale"), [pairs()[n::3] for n in range(3)])


def test_a_second_run_gives_the_same_bytes(layout: Layout, tmp_path: Path) -> None:
    again = run(tmp_path, [pairs()[n::3] for n in range(3)])
    assert file_hashes(again) == file_hashes(layout)
    assert len(file_hashes(layout)) == 6


def test_batches_in_another_order_give_the_same_set(layout: Layout, tmp_path: Path) -> None:
    other = run(tmp_path, [pairs()[::-1][n::2] for n in range(2)])
    for found, expected in (
        (other.dataset("curated_pairs", "a"), layout.dataset("curated_pairs", "a")),
        (other.rejects("curate", "a"), layout.rejects("curate", "a")),
    ):
        rows, same = (
            sorted(read_all(folder).to_pylist(), key=lambda r: r["uid"])
            for folder in (found, expected)
        )
        assert rows == same
        assert len(rows) > 3


def test_two_worker_processes_of_a_dask_cluster_give_the_same_bytes(
    layout: Layout, tmp_path: Path
) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        engine = Engine("DaskRunner", (f"--dask_client_address={cluster.scheduler_address}",))
        there = run(tmp_path, [pairs()[n::3] for n in range(3)], engine)
        for client in list(Client._instances):  # Beam leaves them open
            client.close()
    assert file_hashes(there) == file_hashes(layout)


PROGRAM = """
import re, sys
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

config = CurateConfig(min_bytes=100, max_caption_images=10**6, max_image_urls=10**6)
done = curate_pairs("a", Layout(sys.argv[1]), config, Engine())
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(done.funnel.rows_in, int(peak) // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path: Path) -> None:
    bitmap = encoded(picture().resize(LARGE), "BMP")
    peaks = []
    # A process keeps some freed memory, which the first batches fill.
    for times in (2, 6):
        layout = Layout(str(tmp_path / str(times)))
        rows = [row(n, f"a dog runs home, number {n}", bitmap) for n in range(times * PAIRS)]
        fetched_pairs(layout, "a", *(rows[n : n + 50] for n in range(0, len(rows), 50)))
        command = [sys.executable, "-c", PROGRAM, layout.root]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        count, peak = map(int, done.stdout.split())
        assert count == times * PAIRS
        peaks.append(peak)
    assert 4 * PAIRS * len(bitmap) > 4 * SLACK_MB << 20
    assert peaks[1] < peaks[0] + SLACK_MB, peaks
