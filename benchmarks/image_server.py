"""A server of small images for the fetch marks: one process, no parsing beyond the path.

python -m benchmarks.image_server BYTES prints its port. `/clock` gives the times of the first and
the last request since the last `/clock`, and their number.
"""

import asyncio
import json
import sys
import time

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
    def __init__(self, clock: _Clock, body: bytes):
        self._clock = clock
        self._body = body
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
                self._answer(b"200 OK", self._body, close)

    def _answer(self, status: bytes, body: bytes, close: bool) -> None:
        length = str(len(body)).encode()
        self._transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: " + length)
        self._transport.write(b"\r\nContent-Type: image/png\r\n\r\n" + body)
        if close:
            self._transport.close()


async def _serve(size: int) -> None:
    clock, body = _Clock(), _PNG + bytes(size - len(_PNG))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(clock, body), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
