"""Memory over more pairs and more references: a process each for N and for 4 N."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, read_all, row
from PIL import Image

from pipelines import ledger, parquet
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_index import build_index
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine

COUNT = 100
# Between the peaks of N and 4 N; the pictures of 3 N are three times as much or more. The process
# of an index still grows a little in its first tasks.
SLACK_MB, INDEX_SLACK_MB = 20, 50
SIDE = 300
SHARD_ROWS = 25
DEDUPE = """
import re, sys
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

config = DedupeConfig(measured_references=0)
print(dedupe_pairs("a", Layout(sys.argv[1]), config, Engine()).funnel.kept)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
INDEX = """
import re, sys
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_index import build_index
from pipelines.layout import Layout

config = DedupeConfig(measured_references=2, measured_unrelated=20)
print(build_index(sys.argv[1] + "/references", Layout(sys.argv[1]), config).funnel.kept)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak_mb(program: str, root: Path, kept: int) -> int:
    """Peak of a process that must keep so many."""
    command = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, peak = map(int, done.stdout.split()[-2:])
    assert count == kept
    return peak // 1024


def curated_pairs(layout: Layout, count: int, picture: bytes) -> None:
    """A batch of pairs with other hashes each and the same large picture."""
    fetched_pairs(layout, "one", [row(0, "a dog that runs home", artwork()["dog"])])
    config = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
    curate_pairs("one", layout, config, Engine())
    one = read_all(layout.dataset("curated_pairs", "one"))
    rng = np.random.default_rng(count)
    directory, files = layout.dataset("curated_pairs", "a"), {}
    for shard in range(count // SHARD_ROWS):
        rows = []
        for _ in range(SHARD_ROWS):
            new: dict[str, object] = {
                "uid": rng.bytes(16),
                "image_sha256": rng.bytes(32),
                "image": picture,
            }
            new |= {"phash64": rng.bytes(8), "phash256": rng.bytes(32), "contrast": 40.0}
            rows.append(one.to_pylist()[0] | new)
        table = pa.Table.from_pylist(rows, schema=one.schema)
        name = f"part-{shard:05d}.parquet"
        files[name] = parquet.write(join(directory, name), table.to_batches(), one.schema)
    finished = Finished(
        dataset="curated_pairs",
        fingerprint="test",
        content=ledger.content_hash({name: file.sha256 for name, file in files.items()}),
        rows=count,
        bytes=sum(file.bytes for file in files.values()),
        funnel=Funnel(rows_in=count, kept=count),
    )
    ledger.write_success(directory, finished)


def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    picture = encoded(Image.fromarray(noise))
    assert 3 * COUNT * len(picture) > 3 * SLACK_MB << 20
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / "snail.png").write_bytes(artwork()["snail"])
    peaks = []
    for times in (1, 4):
        layout = Layout(str(tmp_path / str(times)))
        build_index(str(folder), layout, DedupeConfig(measured_references=0))
        curated_pairs(layout, times * COUNT, picture)
        peaks.append(peak_mb(DEDUPE, Path(layout.root), times * COUNT))
    assert peaks[1] < peaks[0] + SLACK_MB, peaks


def test_memory_does_not_grow_with_the_number_of_references(tmp_path: Path) -> None:
    names = sorted(artwork())[::90]
    data = [encoded(on_white(artwork()[n]).resize((640, 480)), "BMP") for n in names]
    assert 3 * COUNT * len(data[0]) > 3 * INDEX_SLACK_MB << 20
    peaks = []
    for times in (1, 4):
        folder = tmp_path / str(times) / "references"
        folder.mkdir(parents=True)
        for number, some in zip(range(times * COUNT), itertools.cycle(data), strict=False):
            (folder / f"{number}.bmp").write_bytes(some)
        peaks.append(peak_mb(INDEX, folder.parent, times * COUNT))
    assert peaks[1] < peaks[0] + INDEX_SLACK_MB, peaks
