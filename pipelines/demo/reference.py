"""The reference set of the demonstration, which plays MS-COCO, and copies made of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import imagehash
import numpy as np
from PIL import Image

from pipelines.dedupe.hashes import grey_pixels, undecided_bits
from pipelines.demo.corpus import Picture, encoded, on_white, open_png

REFERENCES = 60
COPIED = 45
# Of 256 bits. Unrelated pictures are about 128 apart; nearer than this lie variants of a design.
_LEAST_DISTANCE = 90
# Of 64 bits. A hash in which more may flip at any re-encoding (left-right symmetric pictures) is
# a known weak case of perceptual hashing; photographs, which the set stands for, are not such.
_MOST_UNDECIDED = 4


class Attack(StrEnum):
    """How a copy differs from its original."""

    REENCODED = "reencoded"
    RESIZED = "resized"
    MIRRORED = "mirrored"


@dataclass(frozen=True)
class Copy:
    """A changed copy of a reference picture."""

    original: Picture
    attack: Attack
    data: bytes
    suffix: str


def choose_references(pictures: Sequence[Picture], count: int) -> list[Picture]:
    """The `count` pictures that are least like any other, in the order of `pictures`.

    Likeness is the Hamming distance of 256-bit perceptual hashes to the nearest other picture,
    mirrored ones included. Copies of such a picture are copies of it alone. Pictures whose own
    hash is unstable are passed over.
    """
    nearest = _nearest_distances(pictures)
    pixels = grey_pixels([on_white(open_png(p.png())) for p in pictures], hash_size=8)
    stable = undecided_bits(pixels, hash_size=8) <= _MOST_UNDECIDED
    nearest = [distance if ok else 0 for distance, ok in zip(nearest, stable, strict=True)]
    order = sorted(range(len(pictures)), key=lambda i: (-nearest[i], pictures[i].stem))
    chosen = [i for i in order[:count] if nearest[i] > _LEAST_DISTANCE]
    return [pictures[i] for i in sorted(chosen)]


def make_copies(reference: Picture, seed: random.Random) -> list[Copy]:
    """One copy a kind: JPEG of quality 60 to 90, resized to 0.7 to 1.5, mirrored."""
    picture = open_png(reference.png())
    jpeg = encoded(on_white(picture), "JPEG", quality=seed.randint(60, 90))
    scale = seed.uniform(0.7, 1.5)
    size = (round(picture.width * scale), round(picture.height * scale))
    resized = encoded(picture.resize(size, Image.Resampling.LANCZOS), "PNG")
    mirrored = encoded(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG")
    return [
        Copy(reference, Attack.REENCODED, jpeg, "jpg"),
        Copy(reference, Attack.RESIZED, resized, "png"),
        Copy(reference, Attack.MIRRORED, mirrored, "png"),
    ]


def _nearest_distances(pictures: Sequence[Picture]) -> list[int]:
    plain, mirrored = [], []
    for picture in pictures:
        image = on_white(open_png(picture.png()))
        plain.append(_hash(image))
        mirrored.append(_hash(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    hashes, others = np.stack(plain), np.stack(plain + mirrored)
    nearest = []
    for i, row in enumerate(hashes):
        distances = np.bitwise_count(others ^ row).sum(axis=1, dtype=np.int64)
        distances[[i, i + len(pictures)]] = 257
        nearest.append(int(distances.min()))
    return nearest


def _hash(image: Image.Image) -> np.ndarray:
    """256 bits as four 64-bit words."""
    return np.packbits(imagehash.phash(image, hash_size=16).hash).view(np.uint64)
