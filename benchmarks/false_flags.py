"""Pictures that an index of MS-COCO's size flags falsely: photographs among parts of others.

So many references are made of a few hundred photographs: random parts of each, none of which is
asked for itself. Photographs are asked for whole and by their quarters; many of those are sky or
wall with a little in one corner, as few pictures of the web are.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.dedupe import hashes, reference_hashing, search, variants
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.measure import wilson
from pipelines.dedupe.multi_index import MultiIndex

CONFIG = DedupeConfig()
_STRICT = dataclasses.replace(CONFIG, confirm=48)
_PART_SIDE = 160
_LEAST_PART = 64
_AT_ONCE = 128
# Boxes of the sheet, and how many pairs a row has.
_CELL, _COLUMNS = 120, 5

Box = tuple[int, int, int, int]


class Asked(NamedTuple):
    """A photograph or a quarter of it, and the part of another that it was taken for, if any."""

    photograph: Path
    box: Box
    found: search.Match | None
    strict: search.Match | None
    plain: bool


def false_flags(images: Path, references: int) -> list[list[Asked]]:
    """Ask for photographs, and for their quarters, among random parts of all other photographs."""
    rng = np.random.default_rng(0)
    paths = sorted(images.iterdir())
    tables: list[pa.RecordBatch] = []
    for place, path in enumerate(paths):
        count = (place + 1) * references // len(paths) - place * references // len(paths)
        with Image.open(path) as image:
            tables += _hashed(path.stem, image.convert("L"), count, rng)
    table = search.HashTable.of(pa.Table.from_batches(tables))
    indexes = [search.ReferenceIndex(table, config) for config in (CONFIG, _STRICT)]
    variant = table.variants.dictionary.to_pylist()
    full = np.array([n.startswith("full@") and variants.MIRROR_SUFFIX not in n for n in variant])
    rows = np.flatnonzero(full[table.variants.indices.to_numpy(zero_copy_only=False)])
    plain = MultiIndex(table.phash64[rows]), table.references[rows]
    whole = [(path, _boxes(path)[0]) for path in paths]
    quarters = [(path, box) for path in paths for box in _boxes(path)[1:]]
    return [_ask(some, indexes, plain, table.names) for some in (whole, quarters)]


def in_words(whole: Sequence[Asked], quarters: Sequence[Asked], references: int) -> list[str]:
    """What was flagged, in words."""
    found = []
    for name, asked in (("photographs", whole), ("their quarters", quarters)):
        flagged, strict = (
            sum(answer is not None for answer in answers)
            for answers in zip(*((one.found, one.strict) for one in asked), strict=True)
        )
        most = wilson(flagged, len(asked))[1]
        plain = sum(one.plain for one in asked)
        found.append(
            f"{name} among {references:,} parts of others: {flagged} of {len(asked)} flagged, at "
            f"most {most:.2%} ({strict} within {_STRICT.confirm} bits; 64 bits alone: {plain})"
        )
    return found


def sheet(asked: Sequence[Asked]) -> Image.Image:
    """What was flagged, each beside the part that it was taken for."""
    flagged = [one for one in asked if one.found is not None]
    rows = -(-len(flagged) // _COLUMNS)
    page = Image.new("RGB", (_COLUMNS * (2 * _CELL + 12), max(rows, 1) * (_CELL + 6)), "white")
    for number, one in enumerate(flagged):
        left, top = number % _COLUMNS * (2 * _CELL + 12), number // _COLUMNS * (_CELL + 6)
        for place, picture in enumerate(_both(one)):
            page.paste(picture.resize((_CELL, _CELL)), (left + place * (_CELL + 2), top))
    return page


def _both(one: Asked) -> Iterator[Image.Image]:
    assert one.found is not None
    with Image.open(one.photograph) as image:
        yield image.convert("RGB").crop(one.box)
    where, mirror = one.found.variant.split("@")[1].partition(variants.MIRROR_SUFFIX)[:2]
    left, top, right, bottom = map(int, where.split(","))
    with Image.open(one.photograph.with_stem(one.found.reference)) as image:
        part = image.convert("RGB").crop((left, top, right, bottom))
    yield part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else part


def _ask(
    asked: Sequence[tuple[Path, Box]],
    indexes: Sequence[search.ReferenceIndex],
    plain: tuple[MultiIndex, np.ndarray],
    names: Sequence[str],
) -> list[Asked]:
    pictures = []
    for path, box in asked:
        with Image.open(path) as image:
            pictures.append(image.convert("L").crop(box))
    queries = reference_hashing.queries_of(pictures)
    own = [path.stem for path, _ in asked]
    found = [index.match(queries, ignore=own) for index in indexes]
    place_of = {name: place for place, name in enumerate(names)}
    near = plain[0].within(queries.phash64, CONFIG.radius)
    strange = plain[1][near.rows] != np.array([place_of[name] for name in own])[near.queries]
    alone = np.isin(np.arange(len(own)), near.queries[strange]).tolist()
    return [Asked(*one, *more) for one, *more in zip(asked, *found, alone, strict=True)]


def _boxes(path: Path) -> list[Box]:
    """The whole picture, then its quarters."""
    with Image.open(path) as image:
        width, height = image.size
    x, y = width // 2, height // 2
    quarters = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    return [(0, 0, width, height), *quarters]


def _hashed(
    name: str, image: Image.Image, count: int, rng: np.random.Generator
) -> Iterator[pa.RecordBatch]:
    """Variants of so many random parts of a photograph, as the index holds a reference's."""
    for start in range(0, count, _AT_ONCE):
        named = []
        for _ in range(min(_AT_ONCE, count - start)):
            box = _part(image, rng)
            part = image.crop(box)
            part = part.reduce(max(1, max(part.size) // _PART_SIDE))
            where = ",".join(map(str, box))
            found = variants.crops(part, CONFIG.crops)
            named += [(f"{variant}@{where}", crop) for variant, crop in found.items()]
        small, large = (hashes.grey_pixels([crop for _, crop in named], k) for k in (8, 16))
        clear = np.flatnonzero(hashes.contrast(small) >= CONFIG.min_contrast)
        names = [named[place][0] for place in clear]
        yield reference_hashing.hash_rows(name, names, small[clear], large[clear])


def _part(image: Image.Image, rng: np.random.Generator) -> Box:
    """5 to 60 % of the area, at most 2:1 off the aspect ratio."""
    while True:
        side, aspect = np.sqrt(rng.uniform(0.05, 0.6)), np.exp(rng.uniform(-0.35, 0.35))
        width, height = int(image.width * side * aspect), int(image.height * side / aspect)
        if _LEAST_PART <= width <= image.width and _LEAST_PART <= height <= image.height:
            break
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return left, top, left + width, top + height
