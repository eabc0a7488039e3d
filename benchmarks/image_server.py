"""A server of images for the fetch marks: one process, no parsing beyond the path.

python -m benchmarks.image_server BYTES|FOLDER prints its port. The paths are `/NUMBER.*`; each
has an image of so many bytes, or the one of the folder's files that its number falls on. `/clock`
gives the times of the first and the last request since the last `/clock`, and their number.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

_PNG = b"\x89PNG\r\n\x1a\n"
_RULES = (b"/robots.txt", b"/.well-known/tdmrep.json")


class _Clock:
    first = last = 0.0
    count = 0

    def tick(self) -> None:
        self.last = time.time()
        self.first = self.first or self.last
        self.count += 1

    def read(self) -> bytes:
        text = json.dumps({"first": self.first, "last": self.last, "count": self.count}).encode()
        self.first = self.last = self.count = 0
        return text


class _Connection(asyncio.Protocol):
    def __init__(self, clock: _Clock, bodies: Sequence[bytes]):
        self._clock = clock
        self._bodies = bodies
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            head, _, self._head = self._head.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            close = b"connection: close" in head.lower()
            if path in _RULES:
                self._answer(b"404 Not Found", b"", close)
            elif path == b"/clock":
                self._answer(b"200 OK", self._clock.read(), close)
            else:
                self._clock.tick()
                number = int(path[1:].partition(b".")[0])
                self._answer(b"200 OK", self._bodies[number % len(self._bodies)], close)

    def _answer(self, status: bytes, body: bytes, close: bool) -> None:
        length = str(len(body)).encode()
        self._transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: " + length)
        kind = b"image/png" if body.startswith(_PNG) else b"image/jpeg"
        self._transport.write(b"\r\nContent-Type: " + kind + b"\r\n\r\n" + body)
        if close:
            self._transport.close()


def _bodies(source: str) -> list[bytes]:
    """Files of a folder by name, or one PNG signature and zeros up to so many bytes."""
    if source.isdecimal():
        return [_PNG + bytes(int(source) - len(_PNG))]
    return [path.read_bytes() for path in sorted(Path(source).iterdir())]


async def _serve(bodies: Sequence[bytes]) -> None:
    clock = _Clock()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(clock, bodies), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_server", description=__doc__)
    parser.add_argument("bodies", metavar="BYTES|FOLDER")
    asyncio.run(_serve(_bodies(parser.parse_args().bodies)))
