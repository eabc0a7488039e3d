"""MS-COCO's validation split as a reference set (arXiv 2102.12092, section 3.1).

The layout is MS-COCO's own, of 2014 as in the paper:

    annotations/captions_val2014.json
    val2014/COCO_val2014_000000000042.jpg ...      (or images/val2014/...)
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import InputError
from training.metrics.reference_set import ReferenceSet, chosen, read_pictures, require_pictures

KEY = "coco"
CAPTIONS = 30_000
SPLIT = "val2014"
_ANNOTATIONS = f"annotations/captions_{SPLIT}.json"


def coco(directory: Path, count: int, size: int, seed: int = 0) -> ReferenceSet:
    """A caption of each of `count` pictures of the validation split.

    Both are drawn from the seed. A caption that another picture has already is passed over, since
    equal captions draw equal pictures.

    Args:
        directory: holds `annotations/` and `val2014/`.
        count: captions, and pictures.
        size: side of the pictures in pixels.
        seed: of the choice; a smaller sample of the same seed is part of a larger one.

    Raises:
        InputError: if files are missing or broken, or the split has fewer pictures.
    """
    file = directory / _ANNOTATIONS
    names, captions, digest = _read(file)
    nested = (directory / "images" / SPLIT).is_dir()
    folder = f"images/{SPLIT}" if nested else SPLIT
    pictures = {image: f"{folder}/{name}" for image, name in names.items()}
    require_pictures((directory / name for name in pictures.values()), str(file))
    picked = _one_each(captions, count, seed)
    if len(picked) < count:
        raise InputError(
            f"{directory} has {len(picked):,} pictures with a caption of their own, {count:,} are "
            f"asked for; give --coco-captions {len(picked)}, or the whole of {SPLIT}"
        )
    chosen_names = [pictures[image] for image in picked.values()]
    paths = [directory / name for name in chosen_names]
    return ReferenceSet(
        KEY,
        f"MS-COCO {SPLIT}",
        list(picked),
        chosen_names,
        lambda: read_pictures(paths, size),
        sources={_ANNOTATIONS: digest},
    )


def _one_each(captions: Mapping[int, Sequence[str]], count: int, seed: int) -> dict[str, int]:
    """Caption to picture, one for each picture, in the drawn order."""
    picked: dict[str, int] = {}
    for image in chosen(captions, seed, str):
        if len(picked) == count:
            break
        fresh = (c for c in chosen(set(captions[image]), seed, str) if c not in picked)
        caption = next(fresh, None)
        if caption is not None:
            picked[caption] = image
    return picked


def _read(file: Path) -> tuple[dict[int, str], dict[int, list[str]], str]:
    """File name and captions of each picture, and SHA-256 of the file.

    Source: https://cocodataset.org/#format-data
    """
    if not file.is_file():
        raise InputError(f"{file} is missing; unpack annotations_trainval2014.zip of MS-COCO there")
    try:
        data = file.read_bytes()
        content: Any = json.loads(data)
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        captions: dict[int, list[str]] = {}
        for row in content["annotations"]:
            # Some captions of MS-COCO end with a line feed.
            text = " ".join(row["caption"].split())
            if text:
                captions.setdefault(row["image_id"], []).append(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not MS-COCO's file of captions ({type(error).__name__}: {error}); "
            "unpack it again"
        ) from error
    strange = captions.keys() - names.keys()
    if strange:
        raise InputError(
            f"{file} has captions of {len(strange):,} pictures that it does not list, the first "
            f"has the id {min(strange, key=str)}; unpack it again"
        )
    return names, captions, hashlib.sha256(data).hexdigest()
