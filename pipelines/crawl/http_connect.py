"""A connection to an address that was checked, under one deadline.

Names are resolved here and the socket goes to the very address that passed, so that a name that
changes its answer between check and connection (DNS rebinding) gains nothing. There are no
proxies, cookies or stored passwords.
"""

import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult

from pipelines.crawl.outcomes import FetchError, Outcome

_TLS = ssl.create_default_context()


class Deadline:
    """A moment that a whole exchange must end by."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._seconds = seconds

    def left(self) -> float:
        """Seconds left; raises `FetchError` if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchError(Outcome.TIMEOUT, f"not finished after {self._seconds:g} s")
        return left

    def extend(self, seconds: float) -> None:
        """Move the deadline: time spent waiting for others is not the server's."""
        self._end += seconds


class _DeadlineReader(io.RawIOBase):
    """Reads a socket; each read may take only what the deadline leaves."""

    def __init__(self, sock: socket.socket, deadline: Deadline):
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


class _DeadlineSocket:
    """The part of a socket that `http.client` uses."""

    def __init__(self, sock: socket.socket, deadline: Deadline):
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._deadline), 65536)

    def close(self) -> None:
        """Leave the socket open: `http.client` closes it before the body is read."""


def is_allowed(address: str, allow_networks: Sequence[str]) -> bool:
    """Whether an IP address may be connected to: global, or in an allowed network.

    IPv6 addresses that carry an IPv4 one (mapped, 6to4, Teredo, NAT64) are refused, because what
    they reach is decided elsewhere.
    """
    ip = ipaddress.ip_address(address.split("%")[0])
    for network in allow_networks:
        if ip in ipaddress.ip_network(network):
            return True
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip in ipaddress.ip_network("64:ff9b::/96")
    ):
        return False
    return ip.is_global and not ip.is_multicast


def resolve(host: str, port: int, allow_networks: Sequence[str]) -> list[str]:
    """Addresses of a host, each of which may be connected to.

    Raises:
        FetchError: if the name has none, or if any of them is not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(Outcome.DNS, f"{host}: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    refused = [a for a in addresses if not is_allowed(a, allow_networks)]
    if refused:
        raise FetchError(Outcome.UNSAFE_ADDRESS, f"{host} is at {refused[0]}, which is not public")
    return addresses


@contextlib.contextmanager
def connection_to(
    url: SplitResult, allow_networks: Sequence[str], deadline: Deadline
) -> Iterator[http.client.HTTPConnection]:
    """A connection for one request to `url`'s host, closed with the block.

    Raises:
        FetchError: if the host is not found, not allowed, does not answer or fails its TLS check.
    """
    assert url.hostname is not None
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    addresses = resolve(url.hostname, port, allow_networks)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(_open(addresses, port, deadline))
        if secure:
            sock = stack.enter_context(_secured(sock, url.hostname, deadline))
        connection = http.client.HTTPConnection(url.hostname, port)
        connection.sock = _DeadlineSocket(sock, deadline)
        yield connection


def _secured(sock: socket.socket, host: str, deadline: Deadline) -> ssl.SSLSocket:
    try:
        sock.settimeout(deadline.left())
        return _TLS.wrap_socket(sock, server_hostname=host)
    except TimeoutError as error:
        raise FetchError(Outcome.TIMEOUT, f"TLS: {error}") from error
    except OSError as error:
        raise FetchError(Outcome.TLS, str(error)) from error


def _open(addresses: list[str], port: int, deadline: Deadline) -> socket.socket:
    problem: OSError | None = None
    for address in addresses:
        try:
            sock = socket.create_connection((address, port), timeout=deadline.left())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except TimeoutError as error:
            raise FetchError(Outcome.TIMEOUT, f"{address}: {error}") from error
        except OSError as error:
            problem = error
    raise FetchError(Outcome.CONNECT, str(problem))
