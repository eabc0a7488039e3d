"""One photograph after some 120 image filters: what the index catches of it, filter by filter.

`python -m benchmarks.taj_recall [PLOT.png]` takes the photograph and its filtered versions from the
Debian package gimp-help-en (GIMP's manual), builds an index of the photograph, and compares it with
plain `imagehash.phash` at thresholds 0 to 20. False flags are counted on the manual's other
pictures.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

from benchmarks import packages
from pipelines.dedupe import hashes, reference_hashing, search, variants
from pipelines.dedupe.config import DedupeConfig

_PACKAGE = "gimp-help-en"
_IMAGES = "usr/share/gimp/2.0/help/en/images"
_ORIGINAL = "filters/examples/taj_orig.jpg"
# The photograph, too, though their names do not say so; found by looking at all that was flagged.
_UNNAMED = (
    "filters/examples/artistic-weave-as-lattice.jpg",
    "filters/examples/artistic/slic-ex-compact20.jpg",
    "filters/examples/artistic/slic-ex-compact40.jpg",
    "filters/examples/carve-it-mask.jpg",
    "filters/examples/enhance/wavelet-ex-1.png",
    "filters/examples/noise/CIE_lch_noise-default.jpg",
    "glossary/feather.png",
    "menus/colors/ColorToAlpha-ex5.png",
    "menus/colors/ColorToAlpha-ex6.png",
    "menus/colors/ColorToAlpha-ex7.png",
    "menus/colors/components/extract_component-ex.png",
    "menus/colors/components/mono_mixer-ex.png",
    "toolbox/clip-orig.png",
)
_THRESHOLDS = tuple(range(0, 21, 2))
_LEAST_SIDE = 100
# Of 32x32 grey levels: the nearest that a filter leaves the photograph to the eye.
_GROUPS = (
    (0.95, "near: correlation of grey levels above 0.95"),
    (0.8, "0.8 to 0.95"),
    (-1, "below"),
)
CONFIG = DedupeConfig()


class Filtered(NamedTuple):
    """One version: its name, how like the original it is, and how far its hashes are.

    Attributes:
        name: of the file.
        likeness: correlation of 32x32 grey levels with the original's.
        plain: distance of imagehash's 64-bit hash.
        found: whether the index matches it with the original.
        distance: of 256 bits, to the nearest variant found.
    """

    name: str
    likeness: float
    plain: int
    found: bool
    distance: int | None


class Curves(NamedTuple):
    """What was measured: versions, and distances of the pictures that show something else."""

    versions: list[Filtered]
    unrelated_plain: list[int]
    unrelated_found: int


def measure(folder: Path) -> Curves:
    """Compare all versions and other pictures below a folder of the manual's images."""
    original = _opened(folder / _ORIGINAL)
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))
    unnamed = {folder / name for name in _UNNAMED}
    family = [p for p in files if p in unnamed or (_named(p) and p != folder / _ORIGINAL)]
    others = [p for p in files if p not in unnamed and "taj" not in p.name]
    index = search.ReferenceIndex(_table(original), CONFIG)
    versions = [_opened(path) for path in family]
    strange = [image for image in map(_opened, others) if min(image.size) >= _LEAST_SIDE]
    matches = index.match(reference_hashing.queries_of(versions))
    plain = _plain([original])[0]
    grey = _grey([original])[0]
    found = [
        Filtered(
            path.stem,
            float(np.corrcoef(grey, _grey([image])[0])[0, 1]),
            int((plain != _plain([image])[0]).sum()),
            match is not None,
            match and match.distance,
        )
        for path, image, match in zip(family, versions, matches, strict=True)
    ]
    asked = reference_hashing.queries_of(strange)
    flagged = sum(match is not None for match in index.match(asked))
    apart = [int((plain != other).sum()) for other in _plain(strange)]
    return Curves(found, apart, flagged)


def table(curves: Curves) -> list[str]:
    """Recall by likeness: the index, and plain pHash by threshold, as lines of a Markdown table."""
    heads = ["versions", "number", "index", *(f"≤ {t}" for t in _THRESHOLDS)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    above = 2.0
    for least, name in (*_GROUPS, (-1, "all")):
        top = 2.0 if name == "all" else above
        own = [v for v in curves.versions if least <= v.likeness < top]
        above = least
        counts = [sum(v.found for v in own), *_within([v.plain for v in own])]
        lines.append(f"| {name} | {len(own)} | {' | '.join(map(str, counts))} |")
    counts = [curves.unrelated_found, *_within(curves.unrelated_plain)]
    row = " | ".join(map(str, [len(curves.unrelated_plain), *counts]))
    return [*lines, f"| other pictures (false flags) | {row} |"]


def plot(curves: Curves) -> bytes:
    """Recall and false flags by threshold of plain pHash, beside the index's, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), dpi=100, layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    steps = list(range(21))
    above = 2.0
    for (least, name), colour in zip(_GROUPS, ("#228833", "#4477aa", "#aa3377"), strict=True):
        own = [v for v in curves.versions if least <= v.likeness < above]
        above = least
        shares = [sum(v.plain <= t for v in own) / len(own) for t in steps]
        axes.plot(steps, shares, color=colour, label=f"{name} ({len(own)})")
        axes.axhline(sum(v.found for v in own) / len(own), color=colour, linestyle="--")
    count = len(curves.unrelated_plain)
    false = [sum(d <= t for d in curves.unrelated_plain) / count for t in steps]
    axes.plot(steps, false, color="#bb5555", linestyle=":", label=f"other pictures ({count})")
    axes.set_xlabel("threshold of plain imagehash.phash, bits of 64 (dashed: the index)")
    axes.set_ylabel("share flagged")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(_THRESHOLDS)
    axes.legend(fontsize=7)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def main() -> None:
    """Download the package, measure, print the table and write the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.taj_recall", description=__doc__)
    parser.add_argument("plot", type=Path, nargs="?", help="PNG to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manual = packages.debian(_PACKAGE, Path(folder))
        curves = measure(manual / _IMAGES)
    print("\n".join(table(curves)))
    missed = [v for v in curves.versions if not v.found and v.likeness >= _GROUPS[0][0]]
    for version in sorted(missed, key=lambda v: -v.likeness):
        print(f"near but missed: {version.name}, {version.plain} of 64 bits")
    if options.plot is not None:
        options.plot.write_bytes(plot(curves))


def _table(original: Image.Image) -> search.HashTable:
    import pyarrow as pa

    parts = variants.crops(original.convert("L"), CONFIG.crops)
    grey32, grey64 = (hashes.grey_pixels([*parts.values()], size) for size in (8, 16))
    rows = reference_hashing.hash_rows("taj", [*parts], grey32, grey64)
    return search.HashTable.of(pa.Table.from_batches([rows]))


def _named(path: Path) -> bool:
    return "taj" in path.name and "examples" in path.parts and path.suffix == ".jpg"


def _within(distances: Sequence[int]) -> list[int]:
    return [sum(distance <= t for distance in distances) for t in _THRESHOLDS]


def _plain(images: Sequence[Image.Image]) -> list[np.ndarray]:
    return [imagehash.phash(image).hash for image in images]


def _grey(images: Sequence[Image.Image]) -> np.ndarray:
    return hashes.grey_pixels(images, 8).reshape(len(images), -1).astype(np.float64)


def _opened(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


if __name__ == "__main__":
    main()
