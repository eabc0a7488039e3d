"""Connections to addresses that were checked, under one deadline.

A name is resolved here and the socket goes to the very address that passed, so that a name that
changes its answer between check and connection (DNS rebinding) gains nothing. There are no
proxies, cookies or stored passwords.
"""

import functools
import ipaddress
import socket
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult

from pipelines.crawl.config import HttpConfig
from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.outcomes import FetchError, Outcome
from pipelines.crawl.http.resolver import Resolver, literal_address
from pipelines.crawl.http.tls import TlsSocket

_PORTS = {"http": 80, "https": 443}
_TRIES = 4  # addresses of one host that are tried

# What the installed Python may still call global; IANA special-purpose registries, RFC 6890.
_IPV4_SPECIAL = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
# All that is handed out as global unicast (RFC 4291, section 2.4). Outside it lie mapped,
# compatible and NAT64 addresses, which reach what somebody else decides.
_IPV6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_IPV6_SPECIAL = tuple(
    map(
        ipaddress.IPv6Network,
        # Protocols with Teredo and ORCHID; documentation (twice); 6to4.
        ("2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16"),
    )
)
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, section 6.1: an IPv4 address follows


class Target(NamedTuple):
    """Where a request goes: a host, its port, and its addresses, all of them checked."""

    host: str
    port: int
    secure: bool
    addresses: tuple[str, ...]


@functools.lru_cache(maxsize=8192)
def is_allowed(address: str, allow_networks: tuple[str, ...]) -> bool:
    """Whether an IP address may be connected to: global, or in an allowed network.

    IPv6 addresses that carry an IPv4 one (mapped, 6to4, Teredo, NAT64, ISATAP) are refused,
    because what they reach is decided elsewhere.
    """
    return is_exempt(address, allow_networks) or _is_global(address)


@functools.lru_cache(maxsize=8192)
def is_exempt(address: str, allow_networks: tuple[str, ...]) -> bool:
    """Whether an IP address is in one of the networks that are allowed by configuration."""
    ip = ipaddress.ip_address(address.split("%")[0])
    return any(ip in ipaddress.ip_network(network) for network in allow_networks)


def _is_global(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        special = any(ip in network for network in _IPV4_SPECIAL)
        return ip.is_global and not ip.is_multicast and not special
    tunnelled = (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP
    special = any(ip in network for network in _IPV6_SPECIAL)
    return ip in _IPV6_GLOBAL and not special and not tunnelled


class Connector:
    """Finds, checks and opens the way to servers; safe for threads."""

    def __init__(self, config: HttpConfig):
        """Read the certificate authorities once; making a TLS context costs some 50 ms.

        Raises:
            ValueError: if `ca_file` cannot be read, or a name server is no address.
        """
        self._config = config
        self._resolver = Resolver(config.nameservers, config.deadline_s)
        self._tls = ssl.create_default_context()
        self._tls.options |= ssl.OP_NO_RENEGOTIATION
        if config.ca_file is not None:
            try:
                self._tls.load_verify_locations(config.ca_file)
            except OSError as error:
                raise ValueError(f"ca_file {config.ca_file!r} is not readable: {error}") from error

    def find(self, url: SplitResult, deadline: Deadline) -> Target:
        """The checked target of a URL; nothing is sent to it yet.

        Raises:
            FetchError: if the host has no address, or if any of its addresses, or its port there,
                is not allowed.
        """
        host, port = url.hostname or "", url.port
        port = _PORTS[url.scheme] if port is None else port
        if port == 0:
            raise FetchError(Outcome.INVALID_URL, "there is no port 0")
        allowed = self._config.allow_networks
        usual = port in self._config.ports
        # A name is not asked for in vain; an address needs no asking, and may be the graver fault.
        if not (usual or allowed or literal_address(host)):
            raise FetchError(Outcome.UNSAFE_ADDRESS, self._wrong_port(host, port))
        addresses = self._resolver.addresses(host, deadline)
        for address in addresses:
            if not is_allowed(address, allowed):
                words = f"{host} is at {address}, which is not a public address"
                raise FetchError(Outcome.UNSAFE_ADDRESS, words)
            if not usual and not is_exempt(address, allowed):
                raise FetchError(Outcome.UNSAFE_ADDRESS, self._wrong_port(host, port))
        return Target(host, port, url.scheme == "https", addresses)

    def open(self, target: Target, deadline: Deadline) -> socket.socket | TlsSocket:
        """A connection to the first address that answers, with TLS where the URL says so.

        Raises:
            FetchError: `connect` if none answers, `tls` if the host does not prove its name.
        """
        addresses = target.addresses[:_TRIES]
        problem = ""
        for tried, address in enumerate(addresses):
            # A dead first address leaves the others their share.
            share = deadline.left() / (len(addresses) - tried)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # no IPv6 here, or no file handles left
                problem = str(error)
                continue
            try:
                sock.settimeout(share)
                sock.connect((address, target.port))
                return self._secured(sock, target.host, deadline) if target.secure else sock
            except OSError as error:
                sock.close()
                problem = f"{address} port {target.port}: {error}"
            except BaseException:
                sock.close()
                raise
        raise FetchError(Outcome.CONNECT, problem)

    def _secured(self, sock: socket.socket, host: str, deadline: Deadline) -> TlsSocket:
        try:
            return TlsSocket(sock, self._tls, host, deadline.left())
        except TimeoutError as error:
            raise FetchError(Outcome.TIMEOUT, f"TLS handshake: {error}") from error
        except ssl.SSLEOFError as error:
            raise FetchError(
                Outcome.CONNECT, f"closed during the TLS handshake: {error}"
            ) from error
        except (ssl.SSLError, ValueError) as error:
            raise FetchError(Outcome.TLS, str(error)) from error

    def _wrong_port(self, host: str, port: int) -> str:
        ports = ", ".join(map(str, self._config.ports))
        return f"port {port} of {host}: only {ports} may be connected to"
