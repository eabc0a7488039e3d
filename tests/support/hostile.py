"""Servers that do to a client whatever a test wants, byte by byte."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
_ZEROS = bytes(1 << 16)

Attack = Callable[[socket.socket], None]


class HostileServer:
    """Runs the attack that its path names; `asked` lists the paths in order.

    robots.txt is missing (404) unless an attack has its path. A connection that ends before it
    asked for something counts in `connections` only.
    """

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.attacks: dict[str, Attack] = {}
        self.on_connect: Attack | None = None
        self._tls = tls
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family, backlog=128)
        self.port = self._socket.getsockname()[1]
        host = f"[{address}]" if ":" in address else address
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def add(self, path: str, attack: Attack | bytes) -> str:
        self.attacks[path] = sends(attack) if isinstance(attack, bytes) else attack
        return self.url + path

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        # What the client does with its end is the test's matter, not an error of the server.
        with contextlib.suppress(OSError), contextlib.closing(conn):
            conn.settimeout(10)
            if self.on_connect:
                self.on_connect(conn)
                return
            if self._tls:
                conn = self._tls.wrap_socket(conn, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request and (data := conn.recv(65536)):
                request += data
            if not request:
                return
            path = request.split(b" ")[1].decode()
            self.asked.append(path)
            self.requests.append(request)
            missing = sends(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            self.attacks.get(path.partition("?")[0], missing)(conn)
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_WR)  # a plain close with unread input would be a reset
            conn.close()


def sends(*pieces: bytes) -> Attack:
    return lambda conn: [conn.sendall(piece) for piece in pieces] and None


def full(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole, correct response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return full(b"", f"Location: {location}", status=status)


def drips(before: bytes, drop: bytes = b"x", every_s: float = 0.05) -> Attack:
    """Send something, then a little at a time until the client has gone."""

    def attack(conn: socket.socket) -> None:
        conn.sendall(before)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            conn.sendall(drop)
            time.sleep(every_s)

    return attack


def floods(before: bytes, block: bytes = _ZEROS, limit: int = 600_000_000) -> Attack:
    """Send something, then a block again and again as fast as it goes, up to `limit` bytes."""

    def attack(conn: socket.socket) -> None:
        conn.sendall(before)
        for _ in range(limit // len(block)):
            conn.sendall(block)

    return attack


def silent(conn: socket.socket) -> None:
    """Say nothing until the client has gone."""
    while conn.recv(65536):
        pass


def resets(before: bytes) -> Attack:
    """Send something, then break the connection."""

    def attack(conn: socket.socket) -> None:
        conn.sendall(before)
        time.sleep(0.1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()

    return attack


def chunked(pieces: Iterable[bytes], *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", ""]
    chunks = (b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join(lines).encode() + b"".join(chunks)


class FullBacklog:
    """An address where connections are neither accepted nor refused."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.bind((address, port))
        self._socket.listen(0)
        self.url = f"http://{address}:{self._socket.getsockname()[1]}/a.png"
        self._clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self._socket.getsockname())
            self._clients.append(client)

    def close(self) -> None:
        for each in (self._socket, *self._clients):
            each.close()
