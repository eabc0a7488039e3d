"""Pictures for people to judge: one a caption, and the listing that `training.human.page` reads."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from training.checkpoints import atomic_directory
from training.drawing.pictures import to_images
from training.human.page import LISTING


def write(directory: Path, captions: Sequence[str], pictures: Iterable[Tensor]) -> None:
    """Write one PNG file a caption and the listing.

    Args:
        directory: appears whole; what was there is replaced.
        captions: in the order of the listing.
        pictures: as many, in batches uint8 [n, 3, S, S].
    """
    temporary = atomic_directory.begin(directory)
    images = itertools.chain.from_iterable(map(to_images, pictures))
    lines = []
    for number, (caption, image) in enumerate(zip(captions, images, strict=True)):
        name = f"{number:05d}.png"
        Image.fromarray(image).save(temporary / name)
        lines.append(json.dumps({"caption": caption, "file": name}) + "\n")
    (temporary / LISTING).write_text("".join(lines))
    atomic_directory.commit(temporary, directory)
