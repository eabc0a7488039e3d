"""What an index catches of photographs and of drawings, and what it flags falsely of both.

`python -m benchmarks.photograph_recall` takes 359 photographs and 467 drawings from Debian and npm
packages, attacks them, and prints the recall by attack beside the plain 64-bit hash of the full
frame at the same radius. False flags are also counted against as many references as MS-COCO has:
random parts of the other photographs. Some ten minutes of one core; needs apt-get and npm.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks import packages
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, decode
from pipelines.dedupe import hashes, reference_hashing, search, variants
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.measure import read_measured, wilson
from pipelines.dedupe.multi_index import MultiIndex
from pipelines.dedupe.reference_index import write_index
from pipelines.dedupe.references import ReferenceSource
from pipelines.runners import Engine

_DEBIAN = {
    "kphotoalbum": "**/*.jpg",
    "lomiri-wallpapers-16.04": "**/*.jpg",
    "mate-backgrounds": "**/nature/*.jpg",
    "palapeli-data": "**/collection/*.jpg",
}
_NPM = {
    ("material-kit", "2.0.4"): "**/*.jpg",
    ("soft-ui-design-system", "1.0.4"): "**/*.jpg",
}
# Qt resources of a learning program (gcompris-qt-data), a few paintings and tools among them.
_RESOURCES = (
    *("categorization", "erase", "explore_farm_animals", "explore_monuments"),
    *("explore_world_animals", "explore_world_music"),
)
# Part of another photograph, which hashes do not tell; and pictures of web pages.
_LEFT_OUT = ("kal-visuals-square", "landing", "profile_page", "presentation")
_DRAWINGS = "tuxpaint-stamps-default"
_LEAST_PHOTOGRAPH = 200
_LEAST_DRAWING = 100
_LONGEST = 640  # as MS-COCO's
# The same photograph in two packages; looking at all such pairs showed no others.
_SAME = 40
_REFERENCES = 164_000
_PART_SIDE = 160
_LEAST_PART = 64
CONFIG = DedupeConfig()


class Measured(NamedTuple):
    """Recall by attack and false flags, as `measure.read_measured` gives them."""

    recalled: list[dict[str, Any]]
    flagged: list[dict[str, Any]]


class FalseFlags(NamedTuple):
    """Photographs that were asked for, and how many the index and plain 64 bits flag."""

    asked: int
    flagged: int
    flagged_plain: int


def write_photographs(folder: Path, work: Path) -> int:
    """Write each photograph once, at the size of MS-COCO's, as PNG; how many."""
    kept: list[np.ndarray] = []
    for name, data in _photographs(work):
        picture = _picture(data, _LEAST_PHOTOGRAPH)
        if picture is None:
            continue
        pixels = hashes.grey_pixels([picture], 16)
        both = np.concatenate([hashes.hash_pixels(pixels, 16, mirrored=m) for m in (False, True)])
        if all(hashes.distances(both, other).min() > _SAME for other in kept):
            kept.append(both[:1])
            picture.save(folder / f"{name}.png")
    return len(kept)


def write_drawings(folder: Path, work: Path) -> int:
    """Write each drawing on white, as PNG; how many."""
    count = 0
    for path in sorted(packages.debian(_DRAWINGS, work).rglob("*.png")):
        if path.is_symlink():
            continue
        picture = _picture(path.read_bytes(), _LEAST_DRAWING)
        if picture is not None:
            count += 1
            picture.save(folder / f"{path.stem}_{count}.png")
    return count


def measured(images: Path, unrelated: Path, attacked: int, work: Path) -> Measured:
    """Build an index of a folder, attack so many of its pictures and ask for unrelated ones."""
    config = DedupeConfig(measured_references=attacked)
    source, others = (ReferenceSource(str(folder)) for folder in (images, unrelated))
    output = str(work / f"index-{images.name}")
    write_index(source, output, config, Engine(), others)
    return Measured(*read_measured(output))


def false_flags(images: Path, references: int) -> FalseFlags:
    """Ask for photographs among so many random parts of all other photographs."""
    rng = np.random.default_rng(0)
    tables, asked = [], []
    paths = sorted(images.iterdir())
    for place, path in enumerate(paths):
        with Image.open(path) as image:
            asked.append(image.convert("L"))
        count = (place + 1) * references // len(paths) - place * references // len(paths)
        tables.append(_hashed(path.stem, asked[-1], count, rng))
    index = search.ReferenceIndex(search.HashTable.of(pa.Table.from_batches(tables)), CONFIG)
    queries = reference_hashing.queries_of(asked)
    names = [path.stem for path in paths]
    flagged = sum(match is not None for match in index.match(queries, ignore=names))
    return FalseFlags(len(asked), flagged, _plain(index.table, queries, names))


def table(photographs: Measured, drawings: Measured) -> list[str]:
    """Both recalls by attack, as lines of a Markdown table, and the false flags."""
    heads = ("attack", "photographs", "64 bits alone", "drawings", "64 bits alone")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for rows in zip(photographs.recalled, drawings.recalled, strict=True):
        cells = [
            f"{row[key] / row['tried']:.1%}" for row in rows for key in ("caught", "plain_caught")
        ]
        lines.append(f"| {rows[0]['attack']} | {' | '.join(cells)} |")
    for name, found in (("photographs", photographs), ("drawings", drawings)):
        tried = found.recalled[0]["tried"]
        lines.append(f"{name}: {tried} attacked; 100 % is at least {wilson(tried, tried)[0]:.1%}")
        lines += [
            f"{name}, flagged of {row['against']}: {row['caught']} of {row['tried']}, at most "
            f"{row['high_95']:.2%} (64 bits alone: {row['plain_caught']})"
            for row in found.flagged
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Gather, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photograph_recall")
    parser.add_argument("--attacked", type=int, default=500, help="at most, of each kind")
    parser.add_argument("--references", type=int, default=_REFERENCES, help="for false flags")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photographs, drawings = work / "photographs", work / "drawings"
        photographs.mkdir()
        drawings.mkdir()
        counts = write_photographs(photographs, work), write_drawings(drawings, work)
        print(f"{counts[0]} photographs, {counts[1]} drawings", flush=True)
        both = [
            measured(images, unrelated, options.attacked, work)
            for images, unrelated in ((photographs, drawings), (drawings, photographs))
        ]
        print("\n".join(table(*both)), flush=True)
        found = false_flags(photographs, options.references)
    most = wilson(found.flagged, found.asked)[1]
    print(
        f"photographs among {options.references:,} parts of others: {found.flagged} of "
        f"{found.asked} flagged, at most {most:.2%} (64 bits alone: {found.flagged_plain})"
    )


def _plain(table: search.HashTable, queries: search.Queries, names: Sequence[str]) -> int:
    """How many are within the radius of another's full frame by 64 bits alone."""
    code = table.variants.dictionary.to_pylist().index("full")
    full = np.flatnonzero(table.variants.indices.to_numpy(zero_copy_only=False) == code)
    found = MultiIndex(table.phash64[full]).within(queries.phash64, CONFIG.radius)
    place_of = {name: place for place, name in enumerate(table.names)}
    own = np.array([place_of[name] for name in names])
    strange = own[found.queries] != table.references[full[found.rows]]
    return len(np.unique(found.queries[strange]))


def _hashed(name: str, image: Image.Image, count: int, rng: np.random.Generator) -> pa.RecordBatch:
    """Variants of so many random parts of a photograph, as the index holds a reference's."""
    names, grey32, grey64 = [], [], []
    for _ in range(count):
        parts = variants.crops(_part(image, rng), CONFIG.crops)
        small = hashes.grey_pixels([*parts.values()], 8)
        clear = np.flatnonzero(hashes.contrast(small) >= CONFIG.min_contrast)
        names += [[*parts][place] for place in clear]
        grey32.append(small[clear])
        grey64.append(hashes.grey_pixels([*parts.values()], 16)[clear])
    return reference_hashing.hash_rows(name, names, np.concatenate(grey32), np.concatenate(grey64))


def _part(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """5 to 60 % of the area at most 2:1 off the aspect ratio, reduced to some 160 pixels."""
    while True:
        side, aspect = np.sqrt(rng.uniform(0.05, 0.6)), np.exp(rng.uniform(-0.35, 0.35))
        width, height = int(image.width * side * aspect), int(image.height * side / aspect)
        if _LEAST_PART <= width <= image.width and _LEAST_PART <= height <= image.height:
            break
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    return part.reduce(max(1, max(width, height) // _PART_SIDE))


def _photographs(work: Path) -> Iterator[tuple[str, bytes]]:
    folders = [(packages.debian(name, work), pattern) for name, pattern in _DEBIAN.items()]
    folders += [(packages.npm(*name, work), pattern) for name, pattern in _NPM.items()]
    for folder, pattern in folders:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink() and path.stem not in _LEFT_OUT:
                yield f"{folder.name}-{path.stem}", path.read_bytes()
    for path in sorted(packages.debian("gcompris-qt-data", work).rglob("*.rcc")):
        if path.stem in _RESOURCES:
            for number, data in enumerate(_webp_files(path.read_bytes())):
                yield f"{path.stem}-{number:03d}", data


def _webp_files(resources: bytes) -> Iterator[bytes]:
    """Qt's resources hold files one after the other, these as they are."""
    start = resources.find(b"RIFF")
    while start >= 0:
        length = 8 + int.from_bytes(resources[start + 4 : start + 8], "little")
        if resources[start + 8 : start + 12] == b"WEBP":
            yield resources[start : start + length]
        start = resources.find(b"RIFF", start + 4)


def _picture(data: bytes, least_side: int) -> Image.Image | None:
    limits = CurateConfig()
    try:
        image = decode(data, formats=limits.formats, max_pixels=limits.max_pixels)
    except DecodeError:
        return None
    if min(image.size) < least_side:
        return None
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return image


if __name__ == "__main__":
    main()
