"""The process that decodes: `python -m pipelines.curate.decoder_child FILE LIMITS MEMORY SECONDS`.

FILE is the descriptor of the shared memory. Standard input is a socket, on which
`pipelines.curate.decoder` asks for one image after the other. Nothing but Pillow, simplejpeg,
cykooz_resizer and numpy is imported, so that it starts in a moment.
"""

import json
import os
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.curate import wire
from pipelines.curate.decode import (
    EXHIBIT_SIDE,
    DecodeError,
    OutOfMemory,
    decode_sized,
    thumbnail,
)
from pipelines.curate.measure import Limits, hashed_greys, measure
from pipelines.curate.memory import keep_large_blocks


def main() -> None:
    """Answer until the other side has gone."""
    file, limits = int(sys.argv[1]), Limits(**json.loads(sys.argv[2]))
    memory, seconds = int(sys.argv[3]), int(sys.argv[4])
    connection = socket.socket(fileno=0)
    # Ctrl-C reaches the whole terminal; who asks decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What decoders warn about is written nowhere: the pixels or the reason are the answer.
    warnings.simplefilter("ignore")
    Image.init()
    channel = wire.Channel(connection, file, os.fstat(file).st_size)
    # numpy's matrix products take their buffers once, which are no picture's.
    hashed_greys(np.zeros((8, 8, 3), np.uint8))
    keep_large_blocks()
    _confine(memory)
    connection.sendall(wire.READY)
    while True:
        try:
            kind, data = channel.receive()
        except EOFError:
            return
        _allow(seconds)
        # The answer will overwrite what was asked.
        answer, parts = _answer(kind, bytes(data), limits)
        channel.send(answer, *parts)


def _answer(kind: bytes, data: bytes, limits: Limits) -> tuple[bytes, Sequence[bytes | memoryview]]:
    try:
        if kind == wire.MEASURE:
            return wire.MEASURED, wire.pack_measured(measure(data, limits))
        side = wire.PICTURE_SIDE if kind == wire.PICTURE else EXHIBIT_SIDE
        image, size = decode_sized(
            data,
            formats=limits.formats,
            max_pixels=limits.max_pixels,
            max_frames=limits.max_frames,
            at_least=side,
        )
        if kind == wire.EXHIBIT:
            return wire.SHOWN, wire.pack_shown(thumbnail(image))
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return wire.PICTURED, wire.pack_pictured(wire.Pictured(image, *size))
    except DecodeError as error:
        return wire.REFUSED, wire.pack_refused(error.reason, str(error))
    except (OutOfMemory, MemoryError):
        return wire.NO_MEMORY, []


def _confine(memory: int) -> None:
    """So many bytes more than now, no files, no core dump, no further process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _allow(seconds: int) -> None:
    """So much CPU time from now on; then the kernel ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
