"""Addresses of host names, asked for once and remembered, under the caller's deadline.

The system's resolver (`getaddrinfo`) knows no deadline and keeps no answers, so a slow name server
would hold a thread for as long as it likes. `/etc/hosts` is not read: only public names are meant.
"""

import functools
import ipaddress
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import dns.exception
import dns.nameserver
import dns.resolver

from pipelines.crawl.http.deadline import Deadline
from pipelines.crawl.http.outcomes import FetchError, Outcome

# A name with a TTL of 0 would cost a query for every picture; an hour lets a moved host be found.
LEAST_TTL_S = 30.0
MOST_TTL_S = 3600.0
NEGATIVE_TTL_S = 60.0
FAILURE_TTL_S = 10.0
_HOSTS = 20_000
_ADDRESSES = 32  # of one name; one answer over TCP has room for 4,000

_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.A)
# WHATWG URL, "ends in a number": such a host is an IPv4 address, however it is written.
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?", re.A)


class _Known(NamedTuple):
    """What a name was found to be at: addresses, or why there are none."""

    addresses: tuple[str, ...]
    problem: str | None
    expires: float


class Resolver:
    """Looks names up over DNS; safe for threads, memory bounded.

    Threads that need the same name wait for one query. IPv4 comes first and IPv6 is asked for only
    where there is none: nearly every picture host has IPv4, many machines that crawl have no IPv6,
    and a second query for every name doubles the load on the name server.
    """

    def __init__(self, nameservers: Sequence[str] = (), full_s: float = 10.0):
        """Set the DNS servers and the time after which silence counts as an answer.

        Args:
            nameservers: `ADDRESS`, `ADDRESS:PORT` or `[IPV6]:PORT`; the system's if empty.
            full_s: a query that had at least half this long is not repeated at once when it
                brought no answer.

        Raises:
            ValueError: if a server's address cannot be read.
        """
        self._servers = [_nameserver(text) for text in nameservers]
        self._full_s = full_s
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, Future[_Known]] = {}

    def addresses(self, host: str, deadline: Deadline) -> tuple[str, ...]:
        """Addresses of a host, at least one; an IP address, in any spelling, is its own.

        Args:
            host: name in lower case, ASCII (IDNA), or an IP address without brackets.
            deadline: the query ends by it.

        Raises:
            FetchError: `dns` if there is none, `invalid_url` if it cannot be a host.
        """
        literal = literal_address(host)
        if literal is not None:
            return (literal,)
        name = host.rstrip(".")
        # RFC 6761, section 6.3: never asked of a server.
        if name == "localhost" or name.endswith(".localhost"):
            return ("127.0.0.1",)
        while True:
            found, leads = self._known_or_asking(name)
            if isinstance(found, Future):
                answer = self._ask(name, found, deadline) if leads else _wait(found, deadline)
            else:
                answer = found
            # An answer that has expired already is a query that another thread cut short.
            if leads or answer.expires > time.monotonic():
                break
            deadline.left()
        if answer.problem is not None:
            raise FetchError(Outcome.DNS, f"{host}: {answer.problem}")
        return answer.addresses

    def _known_or_asking(self, name: str) -> "tuple[_Known | Future[_Known], bool]":
        with self._lock:
            known = self._known.get(name)
            if known is not None and known.expires > time.monotonic():
                self._known.move_to_end(name)
                return known, False
            asking = self._asking.get(name)
            if asking is not None:
                return asking, False
            self._asking[name] = Future()
            return self._asking[name], True

    def _ask(self, name: str, asking: "Future[_Known]", deadline: Deadline) -> _Known:
        answer = _Known((), "the query was not finished", 0.0)
        try:
            answer = self._query(name, deadline.left())
            return answer
        finally:
            with self._lock:
                del self._asking[name]
                if answer.expires:
                    self._known[name] = answer
                    self._known.move_to_end(name)
                if len(self._known) > _HOSTS:
                    self._known.popitem(last=False)
            asking.set_result(answer)

    def _query(self, name: str, lifetime: float) -> _Known:
        started = time.monotonic()
        try:
            for kind in ("A", "AAAA"):
                left = max(0.001, started + lifetime - time.monotonic())
                answer = self._dns.resolve(
                    f"{name}.", kind, search=False, lifetime=left, raise_on_no_answer=False
                )
                if answer.rrset:
                    addresses = tuple(str(record.address) for record in answer.rrset)
                    ttl = min(max(float(answer.rrset.ttl), LEAST_TTL_S), MOST_TTL_S)
                    return _Known(addresses[:_ADDRESSES], None, time.monotonic() + ttl)
            problem, ttl = "the name has no address", NEGATIVE_TTL_S
        except dns.resolver.NXDOMAIN:
            problem, ttl = "the name does not exist", NEGATIVE_TTL_S
        except dns.resolver.LifetimeTimeout:
            problem = f"no answer from a name server within {lifetime:.1f} s"
            ttl = FAILURE_TTL_S if lifetime >= self._full_s / 2 else 0.0
        except (dns.exception.DNSException, OSError, ValueError) as error:
            problem, ttl = f"{type(error).__name__}: {error}"[:300], FAILURE_TTL_S
        return _Known((), problem, time.monotonic() + ttl if ttl else 0.0)

    @functools.cached_property
    def _dns(self) -> dns.resolver.Resolver:
        """Made when a name is first asked for: a machine without name servers can use addresses.

        It has no cache of its own: the answers are kept above, as addresses only.
        """
        resolver = dns.resolver.Resolver(configure=not self._servers)
        if self._servers:
            resolver.nameservers = self._servers
        return resolver


def literal_address(host: str) -> str | None:
    """The IP address that a host is written as, in its usual spelling; None for a name.

    `2130706433`, `0x7f.1` and `0177.0.0.1` are 127.0.0.1, as everywhere on the web.

    Raises:
        FetchError: if it can be neither an address nor a name.
    """
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        if not _HOST.fullmatch(host) or len(host) > 254:
            raise ValueError("not a host name")
        if not _NUMERIC.fullmatch(host):
            return None
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (ValueError, OSError) as error:
        raise FetchError(Outcome.INVALID_URL, f"{host[:200]!r}: {error}") from error


def _wait(asking: "Future[_Known]", deadline: Deadline) -> _Known:
    try:
        return asking.result(timeout=deadline.left())
    except TimeoutError as error:
        raise FetchError(Outcome.DNS, "no answer from a name server in time") from error


def _nameserver(text: str) -> dns.nameserver.Nameserver:
    found = re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+)(?::(\d+))?", text)
    address, port = ((found[1] or found[3]), (found[2] or found[4])) if found else (text, None)
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise ValueError(
            f"nameserver {text!r} is not an IP address: write 192.0.2.1, 192.0.2.1:53 or [::1]:53"
        ) from error
    return dns.nameserver.Do53Nameserver(address, int(port or 53))
