"""What the decoder's process is asked, and what it answers: lengths, numbers and pixels.

Files and pixels lie in memory that both processes share; the socket says only that they do.
Nothing that comes back is unpickled or parsed further: whoever takes over the decoder through a
defect of a codec can send wrong pixels, no code.
"""

import math
import mmap
import os
import socket
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.curate.measure import GREY_SIDES, Measured
from pipelines.curate.reasons import Reason

READY = b"ready\n"
MEASURE, PICTURE, EXHIBIT = b"m", b"p", b"e"
MEASURED, PICTURED, SHOWN, REFUSED, NO_MEMORY = b"M", b"P", b"E", b"R", b"O"
# Longest side of a picture that is asked for whole.
PICTURE_SIDE = 1024
# Letter, bytes in the shared memory, its size.
_MESSAGE = struct.Struct("<cQQ")
# width, height, colour range, width and height of the small picture, whether a border was cut
_NUMBERS = struct.Struct("<IIIII?")
# width, height, width and height of the picture
_SIZES = struct.Struct("<IIII")
_SIZE = struct.Struct("<II")


class Refused(NamedTuple):
    """Why an image was not decoded."""

    reason: Reason
    detail: str


class Pictured(NamedTuple):
    """A decoded picture, its longest side at most `PICTURE_SIDE`, and the original's size."""

    image: Image.Image
    width: int
    height: int


Answer = Measured | Pictured | Image.Image | Refused


class Channel:
    """One side's end: a socket, and a file in memory that both have mapped.

    Args:
        connection: a stream socket.
        file: descriptor of the shared file.
        size: of the file; the asking side makes it so large.
    """

    def __init__(self, connection: socket.socket, file: int, size: int):
        self._connection = connection
        self._file = file
        self._memory = mmap.mmap(file, size)

    def send(self, kind: bytes, *parts: bytes | memoryview) -> None:
        """Send one message; the parts are of single bytes."""
        length = 0
        for part in parts:
            self._memory[length : length + len(part)] = part
            length += len(part)
        self._connection.sendall(_MESSAGE.pack(kind, length, len(self._memory)))

    def make_room(self, length: int) -> None:
        """Enlarge the shared file for a message of `length` bytes; of the asking side only."""
        if length > len(self._memory):
            os.ftruncate(self._file, length)
            self._map(length)

    def receive(self) -> tuple[bytes, memoryview]:
        """Letter and body of a message; the body is good until the next one is sent.

        Raises:
            EOFError: if the other side has gone.
            ValueError: if the message makes no sense.
        """
        head = self._connection.recv(_MESSAGE.size, socket.MSG_WAITALL)
        if len(head) < _MESSAGE.size:
            raise EOFError
        kind, length, size = _MESSAGE.unpack(head)
        if size != len(self._memory):
            self._map(size)
        if length > size:
            raise ValueError(f"a message of {length} bytes in {size}")
        return kind, memoryview(self._memory)[:length]

    def _map(self, size: int) -> None:
        # More than the file holds would be a bus error at the first touch.
        if os.fstat(self._file).st_size < size:
            raise ValueError(f"{size} bytes of memory are not shared")
        self._memory = mmap.mmap(self._file, size)


def pack_measured(found: Measured) -> list[bytes | memoryview]:
    """The parts of an answer `MEASURED`."""
    cut = found.trimmed32 is not found.grey32
    high, wide, _ = found.small.shape
    numbers = _NUMBERS.pack(found.width, found.height, found.colour_range, wide, high, cut)
    pixels = [found.grey32, found.grey64]
    pixels += [found.trimmed32, found.trimmed64] if cut else []
    return [numbers, *(part.data.cast("B") for part in [*pixels, found.small])]


def pack_pictured(found: Pictured) -> list[bytes]:
    """The parts of an answer `PICTURED`."""
    sizes = _SIZES.pack(found.width, found.height, *found.image.size)
    return [sizes, found.image.tobytes()]


def pack_shown(image: Image.Image) -> list[bytes]:
    """The parts of an answer `SHOWN`."""
    return [_SIZE.pack(*image.size), image.tobytes()]


def pack_refused(reason: Reason, detail: str) -> list[bytes]:
    """The parts of an answer `REFUSED`."""
    return [reason.encode(), b"\n", detail.encode(errors="replace")]


def largest_answer(short_side: int, min_aspect: float, max_aspect: float) -> int:
    """Bytes that an answer may need."""
    longer = max(max_aspect, 1 / min_aspect, 1) * short_side + 1
    return (1 << 16) + 3 * max(round(short_side * longer), PICTURE_SIDE**2)


def unpack(kind: bytes, body: memoryview) -> Answer | None:
    """An answer by its letter; None if there was not enough memory.

    Raises:
        ValueError: if it is none.
    """
    try:
        if kind == MEASURED:
            return _measured(body)
        if kind == PICTURED:
            width, height, *size = _SIZES.unpack_from(body)
            image = Image.frombytes("RGB", (size[0], size[1]), body[_SIZES.size :])
            return Pictured(image, width, height)
        if kind == SHOWN:
            return Image.frombytes("RGB", _SIZE.unpack_from(body), body[_SIZE.size :])
        if kind == REFUSED:
            reason, _, detail = bytes(body).decode(errors="replace").partition("\n")
            return Refused(Reason(reason), detail)
    except struct.error as error:
        raise ValueError(f"an answer of {len(body)} bytes") from error
    if kind != NO_MEMORY:
        raise ValueError(f"an answer of kind {kind!r}")
    return None


def _measured(body: memoryview) -> Measured:
    width, height, colour_range, wide, high, cut = _NUMBERS.unpack_from(body)
    at = _NUMBERS.size
    shapes: list[tuple[int, ...]] = [(side, side) for side in GREY_SIDES * (2 if cut else 1)]
    found = []
    for shape in [*shapes, (high, wide, 3)]:
        pixels = np.frombuffer(body, np.uint8, math.prod(shape), at)
        found.append(pixels.reshape(shape).copy())
        at += pixels.size
    *greys, small = found
    grey32, grey64, trimmed32, trimmed64 = greys if cut else greys * 2
    return Measured(width, height, colour_range, grey32, grey64, trimmed32, trimmed64, small)
