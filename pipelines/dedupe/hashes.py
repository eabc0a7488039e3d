"""Perceptual hashes in batches, bit-identical to `imagehash.phash` on the same pixels.

The library transforms one image at a time. Here the two cosine transforms of all images are two
matrix products, of which only the rows of low frequency are computed. A coefficient that ties
with the median is decided in the library by its rounding errors, so such images are handed to
the library itself.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import imagehash
import numpy as np
import PIL
import pyarrow as pa
import scipy
from PIL import Image

_FREQUENCY_FACTOR = 4  # imagehash's `highfreq_factor`: pixels per side for each bit per side
# Coefficients reach 4e6, on which float64 products err by 1e-8; true differences are far larger.
_TIE = 1e-6


class Hashed(NamedTuple):
    """Both hashes of N pictures, and whether they mean anything.

    Attributes:
        phash64: uint8 [N, 8].
        phash256: uint8 [N, 32].
        contrast: standard deviation of 32x32 grey levels, float32 [N].
    """

    phash64: np.ndarray
    phash256: np.ndarray
    contrast: np.ndarray


def provenance() -> dict[str, str]:
    """Algorithm and library versions that hashes depend on, for a schema's metadata."""
    return {
        "hash_algorithm": "imagehash.phash, hash sizes 8 and 16, bits packed row-major",
        "imagehash": imagehash.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "scipy": scipy.__version__,
    }


def hash_both(images: Sequence[Image.Image]) -> Hashed:
    """Both hashes of each image, made grey once."""
    grey = [image.convert("L") for image in images]
    grey32, grey64 = grey_pixels(grey, 8), grey_pixels(grey, 16)
    return Hashed(hash_pixels(grey32, 8), hash_pixels(grey64, 16), contrast(grey32))


def phash(images: Sequence[Image.Image], hash_size: int = 8) -> np.ndarray:
    """Hash images as `numpy.packbits(imagehash.phash(image, hash_size).hash)` does each.

    Args:
        images: any sizes and modes that Pillow converts to grey.
        hash_size: bits along one side; 8 gives 64 bits, 16 gives 256.

    Returns:
        uint8 [N, hash_size^2 / 8].

    Raises:
        ValueError: if `hash_size` is less than 2.
    """
    return hash_pixels(grey_pixels(images, hash_size), hash_size)


def grey_pixels(images: Sequence[Image.Image], hash_size: int) -> np.ndarray:
    """The small grey pictures that are transformed: uint8 [N, 4 hash_size, 4 hash_size]."""
    if hash_size < 2:
        raise ValueError(f"hash_size must be at least 2, got {hash_size}")
    side = hash_size * _FREQUENCY_FACTOR
    pixels = np.empty((len(images), side, side), np.uint8)
    for index, image in enumerate(images):
        small = image.convert("L").resize((side, side), Image.Resampling.LANCZOS)
        pixels[index] = np.asarray(small)
    return pixels


def hash_pixels(pixels: np.ndarray, hash_size: int, *, mirrored: bool = False) -> np.ndarray:
    """Hash pictures that `grey_pixels` made, or their left-right mirrored twins.

    Mirroring a picture negates the cosine coefficients of odd horizontal frequency, so the twins
    cost no transform of their own.

    Args:
        pixels: uint8 [N, 4 hash_size, 4 hash_size].
        hash_size: bits along one side.
        mirrored: hash the twins.

    Returns:
        uint8 [N, hash_size^2 / 8], most significant bit first, row-major.
    """
    basis = _cosines(hash_size)
    frequencies = basis @ pixels.astype(np.float64) @ basis.T
    if mirrored:
        frequencies[:, :, 1::2] *= -1
    flat = frequencies.reshape(len(pixels), hash_size * hash_size)
    above = flat - np.median(flat, axis=1, keepdims=True)
    bits = above > 0
    for index in np.flatnonzero((np.abs(above) < _TIE).any(axis=1)):
        picture = pixels[index, :, ::-1] if mirrored else pixels[index]
        library = imagehash.phash(Image.fromarray(np.ascontiguousarray(picture)), hash_size)
        bits[index] = library.hash.reshape(-1)
    return np.packbits(bits, axis=1)


def contrast(pixels: np.ndarray) -> np.ndarray:
    """Standard deviation of grey levels, float32 [N], of uint8 [N, S, S]."""
    return pixels.std(axis=(1, 2), dtype=np.float64).astype(np.float32)


def undecided_bits(pixels: np.ndarray, hash_size: int) -> np.ndarray:
    """How many bits noise of one grey level may flip: int64 [N], of `grey_pixels`.

    Noise of standard deviation 1 in every pixel moves a coefficient by 2 x side. Pictures that
    are symmetric left to right have no odd frequencies, so half of their bits are undecided, and
    any re-encoding flips half of those: a copy then lies beyond every useful radius.
    """
    basis = _cosines(hash_size)
    flat = (basis @ pixels.astype(np.float64) @ basis.T).reshape(len(pixels), hash_size * hash_size)
    above = np.abs(flat - np.median(flat, axis=1, keepdims=True))
    return (above < 2 * pixels.shape[1]).sum(axis=1)


def distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Hamming distances between packed hashes, broadcast over all axes but the last: int64."""
    # Whole words are compared some five times faster than bytes.
    a, b = (np.ascontiguousarray(h, np.uint8).view(np.uint64) for h in (queries, references))
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)


def packed(hashed: np.ndarray) -> pa.FixedSizeBinaryArray:
    """Hashes as a column: uint8 [N, B] to fixed_size_binary(B)."""
    data = pa.py_buffer(np.ascontiguousarray(hashed, np.uint8).tobytes())
    kind = pa.binary(hashed.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(hashed), [None, data])


def unpacked(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of fixed_size_binary(B) without nulls as uint8 [N, B]."""
    width = column.type.byte_width
    if isinstance(column, pa.ChunkedArray):
        parts = [unpacked(chunk) for chunk in column.chunks]
        return np.concatenate([np.empty((0, width), np.uint8), *parts])
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return data[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)


@cache
def _cosines(hash_size: int) -> np.ndarray:
    """Rows of low frequency of scipy's unnormalised DCT-II: [hash_size, 4 hash_size]."""
    side = hash_size * _FREQUENCY_FACTOR
    frequency = np.arange(hash_size)[:, None]
    position = np.arange(side)[None, :]
    return 2 * np.cos(np.pi * frequency * (2 * position + 1) / (2 * side))
