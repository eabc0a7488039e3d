"""What an index catches of photographs and of drawings, and what it flags falsely of both.

`python -m benchmarks.photograph_recall` takes 359 photographs and 467 drawings from Debian and npm
packages, attacks them, and prints the recall by attack beside the plain 64-bit hash of the full
frame at the same radius. False flags are also counted against as many references as MS-COCO has:
random parts of the other photographs (`false_flags`). Some ten minutes of one core; needs apt-get
and npm.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import packages
from benchmarks.false_flags import false_flags, in_words, sheet
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, decode
from pipelines.dedupe import hashes
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.measure import read_measured, wilson
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
# The same photograph in two packages. One more is there twice, cut differently: "bruce-mars" and
# "jordan"; it is the one whole photograph that `false_flags` finds.
_SAME = 40
_REFERENCES = 164_000


class Measured(NamedTuple):
    """Recall by attack and false flags, as `measure.read_measured` gives them."""

    recalled: list[dict[str, Any]]
    flagged: list[dict[str, Any]]


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


def measured(images: Path, unrelated: Path, config: DedupeConfig, work: Path) -> Measured:
    """Build an index of a folder, attack its pictures and ask for unrelated ones."""
    source, others = (ReferenceSource(str(folder)) for folder in (images, unrelated))
    output = str(work / f"index-{images.name}")
    write_index(source, output, config, Engine(), others)
    return Measured(*read_measured(output))


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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photograph_recall", description=__doc__
    )
    parser.add_argument("--attacked", type=int, default=500, help="at most, of each kind")
    parser.add_argument("--confirm", type=int, default=DedupeConfig.confirm, help="of the tables")
    parser.add_argument("--references", type=int, default=_REFERENCES, help="for false flags")
    parser.add_argument("--sheet", help="picture to write of what is flagged falsely")
    options = parser.parse_args(arguments)
    config = DedupeConfig(confirm=options.confirm, measured_references=options.attacked)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        photographs, drawings = work / "photographs", work / "drawings"
        photographs.mkdir()
        drawings.mkdir()
        counts = write_photographs(photographs, work), write_drawings(drawings, work)
        print(f"{counts[0]} photographs, {counts[1]} drawings", flush=True)
        both = [
            measured(images, unrelated, config, work)
            for images, unrelated in ((photographs, drawings), (drawings, photographs))
        ]
        print("\n".join(table(*both)), flush=True)
        whole, quarters = false_flags(photographs, options.references)
        print("\n".join(in_words(whole, quarters, options.references)))
        if options.sheet:
            sheet([*whole, *quarters]).save(options.sheet)


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
