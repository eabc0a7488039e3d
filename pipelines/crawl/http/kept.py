"""Connections that servers keep open, for the next request to the same host.

A picture host is asked for thousands of pictures; without this each costs a connection, and a TLS
handshake, on both sides (RFC 9112, section 9.3).
"""

import select
import socket
import threading
import time
import weakref
from collections import OrderedDict
from typing import NamedTuple

from pipelines.crawl.http.connect import Target
from pipelines.crawl.http.politeness import registrable_domain
from pipelines.crawl.http.tls import TlsSocket

# Below what servers commonly allow (Apache 5 s, nginx 75 s): theirs rarely ends first.
_IDLE_S = 4.0

Socket = socket.socket | TlsSocket


class _Kept(NamedTuple):
    target: Target
    address: str
    since: float


class KeptConnections:
    """Idle connections, the oldest first; safe for threads.

    One goes only to the very host, port and scheme that it was opened for, and only while its
    address is among those that the host has, checked, at that moment. For another host of the same
    registrable domain an idle one is closed, so that idle and busy ones together are never more
    than the domain's turns.
    """

    def __init__(self, most: int):
        """Keep `most` at most."""
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Socket, _Kept] = OrderedDict()
        weakref.finalize(self, _close_all, self._kept)

    def take(self, target: Target) -> Socket | None:
        """An idle connection to `target` on which nothing has come, or None."""
        with self._lock:
            self._close_old()
            domain = registrable_domain(target.host)
            other = None
            for sock, kept in reversed(self._kept.items()):
                if _leads_to(kept, target):
                    del self._kept[sock]
                    break
                if registrable_domain(kept.target.host) == domain:
                    other = sock
            else:
                if other is not None:
                    del self._kept[other]
                    other.close()
                return None
        if _is_quiet(sock):
            return sock
        # The server has closed it, or has said what nobody asked for.
        sock.close()
        return None

    def put(self, target: Target, sock: Socket) -> None:
        """Keep a connection on which a whole response has come and the server would go on."""
        try:
            address = sock.getpeername()[0]
        except OSError:
            sock.close()
            return
        with self._lock:
            self._kept[sock] = _Kept(target, address, time.monotonic())
            self._close_old()

    def _close_old(self) -> None:
        latest = time.monotonic() - _IDLE_S
        while self._kept:
            sock, kept = next(iter(self._kept.items()))
            if kept.since > latest and len(self._kept) <= self._most:
                return
            del self._kept[sock]
            sock.close()


def _leads_to(kept: _Kept, target: Target) -> bool:
    return kept.target[:3] == target[:3] and kept.address in target.addresses


def _is_quiet(sock: Socket) -> bool:
    if isinstance(sock, TlsSocket) and sock.pending():
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return not poll.poll(0)


def _close_all(kept: OrderedDict[Socket, _Kept]) -> None:
    for sock in kept:
        sock.close()
