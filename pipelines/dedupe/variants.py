"""Which parts of a picture are hashed, so that a copy is found after it was changed.

A plain perceptual hash finds neither mirrored nor cropped copies. The index therefore holds
several crops of each reference, each also mirrored, and a query is asked twice: as it is, and
without the plain border that somebody may have put around it.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

MIRROR_SUFFIX = "_mirrored"
_CUT_EDGES = ("l", "r", "t", "b", "lt", "lb", "rt", "rb")
# Grey levels by which a plain border may vary; JPEG at quality 30 stays within.
_BORDER_TOLERANCE = 12
_ROWS_AT_ONCE = 32
# Less than this share of a side left means that the picture, not a border, was plain.
_LEAST_LEFT = 0.3


def crops(
    image: Image.Image, percents: Sequence[int], cuts: Sequence[int] = ()
) -> dict[str, Image.Image]:
    """The parts of a reference that are hashed, by name.

    Args:
        image: the reference.
        percents: how much of each side a centred crop removes, both edges together.
        cuts: how much is cut off at one edge or at two that meet, for each of the four of both.

    Returns:
        `full`, `centre` (the centred square), `crop_<percent>` for each of `percents`,
        `cut_<percent>_<edges>` for each of `cuts` (`l`eft, `r`ight, `t`op, `b`ottom), and
        `trimmed` if it has a plain border: an added one is trimmed together with its own.
    """
    width, height = image.size
    side = min(width, height)
    parts = {"full": image, "centre": centred(image, side, side)}
    for percent in percents:
        left = 1 - percent / 100
        parts[f"crop_{percent}"] = centred(image, round(width * left), round(height * left))
    for percent in cuts:
        for edges in _CUT_EDGES:
            parts[f"cut_{percent}_{edges}"] = _cut(image, percent, edges)
    trimmed = trim_border(image)
    if trimmed is not image:
        parts["trimmed"] = trimmed
    return parts


def _cut(image: Image.Image, percent: int, edges: str) -> Image.Image:
    across, down = (max(1, round(side * percent / 100)) for side in image.size)
    left, top = across * ("l" in edges), down * ("t" in edges)
    right = image.width - across * ("r" in edges)
    bottom = image.height - down * ("b" in edges)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def trim_border(image: Image.Image) -> Image.Image:
    """Cut off the plain border, each side in its own colour; the same image if there is none."""
    box = inside_border(np.asarray(image.convert("L")))
    return image if box is None else image.crop(box)


def inside_border(grey: np.ndarray) -> tuple[int, int, int, int] | None:
    """What `trim_border` leaves of uint8 [H, W]: left, top, right, bottom; None if all of it."""
    top, bottom = _plain_edge(grey), _plain_edge(grey[::-1])
    left, right = _plain_edge(grey.T), _plain_edge(grey.T[::-1])
    height, width = grey.shape
    kept_width, kept_height = width - left - right, height - top - bottom
    if (kept_width, kept_height) == (width, height):
        return None
    if kept_width < width * _LEAST_LEFT or kept_height < height * _LEAST_LEFT:
        return None
    return left, top, width - right, height - bottom


def _plain_edge(grey: np.ndarray) -> int:
    """Number of leading rows of one grey level, within the tolerance."""
    # Most pictures have no border: the first row alone answers for them.
    if int(grey[0].max()) - int(grey[0].min()) > 2 * _BORDER_TOLERANCE:
        return 0
    level = np.median(grey[0])
    low, high = level - _BORDER_TOLERANCE, level + _BORDER_TOLERANCE
    for start in range(0, len(grey), _ROWS_AT_ONCE):
        some = grey[start : start + _ROWS_AT_ONCE]
        differs = (some.min(axis=1) < low) | (some.max(axis=1) > high)
        if differs.any():
            return start + int(differs.argmax())
    return len(grey)


def centred(image: Image.Image, width: int, height: int) -> Image.Image:
    """The central part of an image, `width` x `height` pixels or at least one."""
    width, height = max(width, 1), max(height, 1)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
