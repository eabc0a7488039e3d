"""TLS over a socket, with the clock looked at after every 64 KiB that come in.

`ssl.SSLSocket` looks at its timeout only when it has to wait: a server that sends records without
data (session tickets) faster than they are read keeps it inside one read for as long as it likes.
"""

import socket
import ssl
import time

_RECV = 65536


class TlsSocket:
    """The part of a socket that an exchange needs; safe for one thread."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str, seconds: float):
        """Shake hands over a connected socket, which is closed if that fails.

        Args:
            sock: belongs to this object from now on.
            context: says which certificates are trusted.
            host: name or IP address that the certificate must be for.
            seconds: limit of the whole handshake.

        Raises:
            TimeoutError: if it takes longer.
            OSError: if the connection breaks; `ssl.SSLError` if the host does not prove its name.
        """
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._timeout = seconds
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
            end = time.monotonic() + seconds
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._flush(end)
                    self._fill(end)
            self._flush(end)
        except BaseException:
            sock.close()
            raise

    def settimeout(self, seconds: float) -> None:
        """Limit each of the following calls."""
        self._timeout = seconds

    def sendall(self, data: bytes) -> None:
        """Send all of `data`; raises TimeoutError if that takes too long."""
        self._tls.write(data)
        self._flush(time.monotonic() + self._timeout)

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, none at the end; raises TimeoutError if that takes too long."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._flush(end)
                self._fill(end)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # Many servers close without the TLS farewell: a body's length is checked by HTTP.
                return b""

    def pending(self) -> int:
        """Bytes that have come and were not read, encrypted or not."""
        return self._tls.pending() + self._incoming.pending

    def fileno(self) -> int:
        """The descriptor of the connection."""
        return self._sock.fileno()

    def getpeername(self) -> tuple[str, int]:
        """Address and port of the other end."""
        address, port, *_ = self._sock.getpeername()
        return address, port

    def close(self) -> None:
        """Close the connection, without a farewell: nothing more is to be said or heard."""
        self._sock.close()

    def _fill(self, end: float) -> None:
        self._sock.settimeout(_left(end))
        data = self._sock.recv(_RECV)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self, end: float) -> None:
        if data := self._outgoing.read():
            self._sock.settimeout(_left(end))
            self._sock.sendall(data)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
