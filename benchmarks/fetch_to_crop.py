"""From URLs to stored crops, beside img2dataset's own `download` with its usual settings.

Ours are the two commands that a person runs, `pipelines.crawl.fetch` and `pipelines.curate`, one
process each: with robots.txt, opt-outs, the ledger, every caption and image rule, both hashes. Both
sides read one list of JPEG photographs of 0.8 megapixel from one server on loopback with as many
threads and store JPEG of quality 95 with a short side of 256.

Time is CPU time of the command and of all processes that it started, so the server counts for
nobody. A short list is read too: the difference to the long one is what images cost, the rest is
start-up (imports, for the most part), which is the same for a thousand images and for a million.

    python -m benchmarks.fetch_to_crop
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from benchmarks.fetch_marks import fetch_command, image_server, peer_command
from benchmarks.marks import Mark
from benchmarks.photographs import photographs
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import decode_pixels, encode, stored_size
from pipelines.curate.measure import hashed_greys, working_side
from pipelines.curate.resize import lanczos

_SIZE = (1024, 768)
_QUALITY = 90
_FILES = 120
# Those that pass every rule; the others are grey, or as flat as a scan.
_NAMES = (
    *("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    *("china.jpg", "flower.jpg", "hubble_deep_field.jpg"),
)
_LEAST_CROP = 0.7  # of the sides: parts of one photograph differ, and are still photographs
_MANY = 1040
_FEW = 40
_ROUNDS = 3
_PEER: dict[str, object] = {
    "image_size": 256,
    "resize_mode": "keep_ratio",
    "disable_all_reencoding": False,
    "encode_quality": 95,
    "compute_hash": "sha256",
}


class Cost(NamedTuple):
    """Seconds of a list of images: the CPU time of all processes, and by the clock."""

    cpu: float
    wall: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu - other.cpu, self.wall - other.wall)


def write_pictures(folder: str) -> None:
    """JPEG files of parts of real photographs, no two alike."""
    rng = np.random.default_rng(0)
    found = photographs()
    for number in range(_FILES):
        image = found[_NAMES[number % len(_NAMES)]]
        width, height = (round(side * rng.uniform(_LEAST_CROP, 1)) for side in image.size)
        left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
        part = image.crop((int(left), int(top), int(left) + width, int(top) + height))
        sized = ImageOps.fit(part, _SIZE, Image.Resampling.LANCZOS)
        sized.save(f"{folder}/{number:04d}.jpg", quality=_QUALITY)


def write_list(path: str, url: str, count: int) -> None:
    """Addresses and captions that pass every rule."""
    rows = [
        {"url": f"{url}/{n:07d}.jpg", "caption": f"the old harbour with a red boat, view {n}"}
        for n in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _ours(source: str, output: str) -> dict[str, list[str]]:
    fetched = f"{output}-fetched"
    curate = ["-m", "pipelines.curate", fetched, "--output", output, "--quiet"]
    return {"ours: fetch": fetch_command(source, fetched), "ours: curate": curate}


def _peer(source: str, output: str) -> dict[str, list[str]]:
    return {"img2dataset": peer_command(source, output, changes=_PEER)}


def cost(command: list[str]) -> Cost:
    """What a command costs.

    Raises:
        RuntimeError: if it fails.
    """
    before, started = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    after, wall = os.times(), time.monotonic() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} failed: {done.stderr[-2000:]}")
    # Of processes that ended and were waited for: the server is none of them.
    user = after.children_user - before.children_user
    return Cost(user + after.children_system - before.children_system, wall)


def costs() -> dict[str, tuple[Cost, Cost]]:
    """Medians of each command: the short list, and what the long one costs more.

    Raises:
        RuntimeError: if a command fails, or does not store every image.
    """
    found: dict[str, list[tuple[Cost, Cost]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        pictures = f"{directory}/pictures"
        os.mkdir(pictures)
        write_pictures(pictures)
        with image_server(pictures) as url:
            for turn in range(_ROUNDS):
                few = _costs(url, _FEW, f"{directory}/{turn}-few")
                many = _costs(url, _MANY, f"{directory}/{turn}-many")
                for name, more in many.items():
                    found.setdefault(name, []).append((few[name], more - few[name]))
    return {
        name: (_median([few for few, _ in kept]), _median([more for _, more in kept]))
        for name, kept in found.items()
    }


def _costs(url: str, count: int, directory: str) -> dict[str, Cost]:
    found = {}
    os.mkdir(directory)
    write_list(f"{directory}/list.parquet", url, count)
    for commands in (_ours, _peer):
        output = f"{directory}/{commands.__name__}"
        for name, command in commands(f"{directory}/list.parquet", output).items():
            found[name] = cost(command)
        stored = sum(_stored(path) for path in Path(output).glob("*.parquet"))
        if stored != count:
            raise RuntimeError(f"{stored} of {count} images are stored in {output}")
    return found


def _stored(path: Path) -> int:
    name = "jpg" if "jpg" in pq.read_schema(path).names else "image"
    column = pq.read_table(path, columns=[name]).column(name)
    return len(column) - column.null_count


def _median(found: Sequence[Cost]) -> Cost:
    return Cost(median(one.cpu for one in found), median(one.wall for one in found))


def fetch_to_crop() -> Mark:
    """CPU time of the images that the long list has more than the short one."""
    cpu = {name: more.cpu for name, (_, more) in costs().items()}
    peer = cpu.pop("img2dataset")
    name = f"{_MANY - _FEW:,} images from URL to stored crop"
    return Mark(name, sum(cpu.values()), peer, "img2dataset.download", 1.5)


def steps(files: Sequence[bytes]) -> dict[str, float]:
    """CPU milliseconds an image of what nobody can leave out, by img2dataset's ways and by ours."""
    import cv2

    cv2.setNumThreads(1)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    side = working_side(256)
    wide, high = stored_size(*_SIZE, 256)
    full, spent = _timed(
        files, lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    )
    found = {"img2dataset: decode at full size": spent}
    small, spent = _timed(
        full, lambda pixels: cv2.resize(pixels, (wide, high), interpolation=cv2.INTER_AREA)
    )
    found["img2dataset: average areas"] = spent
    spent = _timed(small, lambda pixels: cv2.imencode(".jpg", pixels, quality))[1]
    found["img2dataset: encode 4:2:0"] = spent
    config = CurateConfig()
    decode = partial(
        decode_pixels, formats=config.formats, max_pixels=config.max_pixels, at_least=side
    )
    half, spent = _timed(files, lambda data: decode(data)[0])
    found["ours: decode at half size"] = spent
    small, found["ours: Lanczos"] = _timed(half, lambda pixels: lanczos(pixels, wide, high))
    found["ours: greys for hashes"] = _timed(small, hashed_greys)[1]
    found["ours: encode 4:4:4"] = _timed(small, lambda pixels: encode(pixels, "jpeg", 95))[1]
    return found


def _timed(inputs: Sequence[Any], work: Callable[[Any], Any]) -> tuple[list[Any], float]:
    """What `work` makes of each, and the CPU milliseconds of the second time."""
    for each in inputs:
        work(each)
    start = time.process_time()
    made = [work(each) for each in inputs]
    return made, 1000 * (time.process_time() - start) / len(inputs)


def main() -> None:
    """Print what each command costs an image, and for the whole long list; and the steps."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.fetch_to_crop", description=__doc__
    ).parse_args()
    print(
        f"{'':12} {'CPU ms/image':>13} {'images/s/core':>14} {'start-up, CPU s':>16} {'wall s':>7}"
    )
    for name, (few, more) in costs().items():
        each = more.cpu / (_MANY - _FEW)
        wall = few.wall + more.wall
        print(f"{name:12} {1000 * each:13.2f} {1 / each:14.1f} {few.cpu:16.1f} {wall:7.1f}")
    with tempfile.TemporaryDirectory() as pictures:
        write_pictures(pictures)
        for name, spent in steps([path.read_bytes() for path in Path(pictures).iterdir()]).items():
            print(f"{name:34} {spent:6.2f} ms")


if __name__ == "__main__":
    main()
