"""Wall-clock time of curating and deduplicating with one and with two Dask workers.

`python -m benchmarks.scaling` prints the ratio, and the pairs that a second of a core does;
`--record` keeps the latter for `python -m benchmarks.cost_model`. Workers are processes of one
thread; a pair is a JPEG file of 1024x768 of its own with its caption. The reference index and the
tokenizer are made in this process.
"""

import argparse
import contextlib
import datetime
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow as pa
from PIL import Image, ImageChops

from benchmarks.curate_marks import photos
from pipelines import identity, ledger, parquet, schemas
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.demo.corpus import load_pictures
from pipelines.encode.bpe import learn
from pipelines.encode.config import BpeConfig
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.runners import Engine

RATES = Path(__file__).with_name("stage_rates.json")
_SHARDS = 24
_ROUNDS = 3
_REFERENCES = 64
_CAPTIONS = 200_000
_CURATE = CurateConfig()
_DEDUPE = DedupeConfig(measured_references=0)


@dataclass(frozen=True)
class Cluster:
    """Dask workers, and what they have cost."""

    engine: Engine
    workers: tuple[psutil.Process, ...]

    def cpu_seconds(self) -> float:
        """CPU time of the workers and their children so far."""
        found = 0.0
        for worker in self.workers:
            for process in (worker, *worker.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Of children that have ended, too.
                    found += sum(process.cpu_times()[:4])
        return found


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Cluster]:
    """A scheduler and so many worker processes on this machine."""
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as found:
        with Client(found.scheduler_address, set_as_default=False) as client:
            pids = client.run(os.getpid).values()
        engine = Engine("DaskRunner", (f"--dask_client_address={found.scheduler_address}",))
        yield Cluster(engine, tuple(psutil.Process(pid) for pid in pids))


def write_fetched(layout: Layout, pairs: int) -> None:
    """`pairs` rows of `fetched_pairs` in shards, no two with one picture."""
    directory = layout.dataset("fetched_pairs", "all")
    at = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    written = {}
    for shard in range(_SHARDS):
        rows: list[dict[str, Any]] = []
        numbers = range(shard, pairs, _SHARDS)
        for n, image in zip(numbers, distinct(numbers), strict=True):
            caption = f"a photograph of the house number {n}"
            url = f"http://example.org/{n}.jpg"
            known = {
                "uid": identity.uid(url, caption), "url": url, "caption_raw": caption,
                "outcome": "ok", "bytes": len(image), "fetched_at": at, "attempts": 1,
                "retryable": False, "image": image, "image_sha256": hashlib.sha256(image).digest(),
            }  # fmt: skip
            rows.append({name: known.get(name) for name in schemas.FETCHED_PAIRS.names})
        batch = pa.RecordBatch.from_pylist(rows, schema=schemas.FETCHED_PAIRS)
        name = f"part-{shard:05d}.parquet"
        written[name] = parquet.write(join(directory, name), [batch], schemas.FETCHED_PAIRS)
    content = ledger.content_hash({name: file.sha256 for name, file in written.items()})
    size = sum(file.bytes for file in written.values())
    done = Finished("fetched_pairs", "", content, pairs, size, Funnel(pairs, pairs))
    ledger.write_success(directory, done)


def distinct(numbers: range) -> Iterator[bytes]:
    """A JPEG file for each number: the benchmark's photographs, shifted around."""
    bases = _bases()
    for n in numbers:
        stream = io.BytesIO()
        shifted = ImageChops.offset(bases[n % len(bases)], 61 * n, 37 * n)
        shifted.save(stream, "JPEG", quality=90)
        yield stream.getvalue()


@functools.cache
def _bases() -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in photos()]


def _stages(source: Layout, root: Path) -> dict[str, Callable[[Engine], Finished]]:
    """Both stages into a new data root that borrows the inputs."""
    layout = Layout(str(root))
    for name in ("fetched_pairs", "coco_hash_index"):
        (root / name).symlink_to(Path(source.root) / name)
    return {
        "curate": lambda engine: curate_pairs("all", layout, _CURATE, engine),
        "dedupe": lambda engine: dedupe_pairs("all", layout, _DEDUPE, engine),
    }


def measure(pairs: int, directory: str) -> dict[str, dict[str, float]]:
    """Per stage: seconds with one and with two workers, and CPU seconds of one.

    The reference index is small here: for it and the tokenizer, CPU seconds in this process.
    """
    source = Layout(f"{directory}/source")
    references = Path(directory, "references")
    references.mkdir()
    for n, data in enumerate(distinct(range(pairs, pairs + _REFERENCES))):
        (references / f"{n}.jpg").write_bytes(data)
    begun = time.process_time()
    build_index(str(references), source, _DEDUPE)
    index_seconds = time.process_time() - begun
    begun = time.process_time()
    names = [picture.name for picture in load_pictures()]
    learn(itertools.islice(itertools.cycle(names), _CAPTIONS), BpeConfig())
    tokenizer_seconds = time.process_time() - begun
    taken: dict[str, dict[str, list[float]]] = {}
    with cluster(1) as one, cluster(2) as two:
        for turn in range(_ROUNDS + 1):
            # The first, small turn loads modules and compiled code into the workers.
            write_fetched(source, pairs if turn else 2 * _SHARDS)
            for name, workers in (("one", one), ("two", two)):
                root = Path(directory, f"{name}-{turn}")
                root.mkdir()
                for stage, run in _stages(source, root).items():
                    begun, cpu = time.perf_counter(), workers.cpu_seconds()
                    run(workers.engine)
                    if turn:
                        kept = taken.setdefault(stage, {"one": [], "two": [], "cpu": []})
                        kept[name].append(time.perf_counter() - begun)
                        if name == "one":
                            kept["cpu"].append(workers.cpu_seconds() - cpu)
    found = {s: {n: median(times) for n, times in kept.items()} for s, kept in taken.items()}
    alone = {"reference index": {"cpu": index_seconds}, "tokenizer": {"cpu": tokenizer_seconds}}
    return found | alone


def main() -> None:
    """Measure and print; with `--record`, keep the pairs a core does in a second."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    parser.add_argument("--pairs", type=int, default=2400)
    parser.add_argument("--record", action="store_true", help=f"write {RATES.name}")
    options = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(options.pairs, directory)
    rates = {
        name: round(count / found.pop(name)["cpu"], 1)
        for name, count in (("reference index", _REFERENCES), ("tokenizer", _CAPTIONS))
    }
    print(f"{options.pairs} pairs   1 worker  2 workers  speed-up  pairs/core-s")
    for stage, seconds in found.items():
        rates[stage] = round(options.pairs / seconds["cpu"], 1)
        print(
            f"{stage:10} {seconds['one']:10.1f} s {seconds['two']:8.1f} s "
            f"{seconds['one'] / seconds['two']:8.2f} {rates[stage]:13.1f}"
        )
    print(f"reference index: {rates['reference index']} images/core-s")
    print(f"tokenizer: {rates['tokenizer']:,.0f} captions/core-s")
    if options.record:
        RATES.write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
