"""The small grey pictures that hashes are made of: Pillow's, bit for bit, by matrix products.

Pillow's Lanczos (src/libImaging/Resample.c) multiplies 8-bit levels by weights of 22 bits, first
across and then down, and rounds to 8 bits after each. Such sums are whole numbers far below 2^53,
so products of float64 matrices give them exactly, in any order of summation and in a third of the
time.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

_BITS = 22
_LOBES = 3
# Neighbouring columns that are made together: each needs but a part of a row.
_BLOCKS = 4
_TALL = 100


def luma(pixels: np.ndarray) -> np.ndarray:
    """Pillow's grey levels, uint8 [H, W], of uint8 [H, W, 3]."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def small_greys(grey: np.ndarray, sides: Sequence[int]) -> list[np.ndarray]:
    """Squares as `Image.resize((side, side), LANCZOS)` gives them.

    Args:
        grey: uint8 [H, W].
        sides: multiples of 4.

    Returns:
        uint8 [side, side] for each of `sides`.
    """
    asked = tuple(sides)
    height, width = grey.shape
    if height > _TALL * width and height > max(asked):
        # Pillow resizes such pictures down first.
        return [square.T for square in small_greys(grey.T, asked)]
    levels = grey.astype(np.float64)
    total = sum(asked) // _BLOCKS
    across = np.empty((height, _BLOCKS, total))
    for block, (start, stop, weights) in enumerate(_blocks(width, asked)):
        across[:, block] = levels[:, start:stop] @ weights
    # All sides down of all sides across: the few that nobody needs cost less than parting them.
    both = _rounded(_down(height, asked) @ _rounded(across.reshape(height, -1))).astype(np.uint8)
    both = both.reshape(-1, _BLOCKS, total)
    found = []
    top = left = 0
    for side in asked:
        each = side // _BLOCKS
        square = both[top : top + side, :, left : left + each]
        found.append(square.reshape(side, side))
        top, left = top + side, left + each
    return found


def _rounded(sums: np.ndarray) -> np.ndarray:
    """Levels 0 to 255 of sums of weighted levels, in place."""
    sums += 1 << (_BITS - 1)
    sums *= 2.0**-_BITS
    np.floor(sums, out=sums)
    np.clip(sums, 0, 255, out=sums)
    return sums


@functools.lru_cache(maxsize=256)
def _blocks(size: int, sides: tuple[int, ...]) -> list[tuple[int, int, np.ndarray]]:
    """Of each block of columns: the pixels that it needs, from and to, and their weights
    [pixels, columns], those of each of `sides` beside each other."""
    found = []
    for block in range(_BLOCKS):
        parts = [np.split(_weights(size, side), _BLOCKS)[block] for side in sides]
        weights = np.concatenate(parts)
        used = np.flatnonzero(weights.any(axis=0))
        start, stop = int(used[0]), int(used[-1]) + 1
        found.append((start, stop, np.ascontiguousarray(weights[:, start:stop].T)))
    return found


@functools.lru_cache(maxsize=256)
def _down(size: int, sides: tuple[int, ...]) -> np.ndarray:
    """Weights of `size` pixels for the pixels of all `sides`: [sum of sides, size]."""
    return np.concatenate([_weights(size, side) for side in sides])


@functools.lru_cache(maxsize=256)
def _weights(size: int, side: int) -> np.ndarray:
    """Whole weights of `size` pixels for each of `side` pixels: float64 [side, size]."""
    scale = size / side
    wide = max(scale, 1.0)
    support = _LOBES * wide
    weights = np.zeros((side, size))
    for row, center in zip(weights, (np.arange(side) + 0.5) * scale, strict=True):
        start = max(int(center - support + 0.5), 0)
        stop = min(int(center + support + 0.5), size)
        distance = (np.arange(start, stop) - center + 0.5) * (1 / wide)
        window = np.sinc(distance) * np.sinc(distance / _LOBES) * (np.abs(distance) < _LOBES)
        exact = window / window.sum() * (1 << _BITS)
        row[start:stop] = np.trunc(exact + np.copysign(0.5, exact))
    return weights
