"""HTTP servers for this machine alone: a thread for each client, and nothing printed of any."""

import abc
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"
_IDLE_S = 30


class Server(ThreadingHTTPServer):
    """Bound from the start; serves from `start` to `stop`."""

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, and give the port back."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave early, as browsers do when a page is closed."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler, abc.ABC):
    """Of GET and HEAD; a subclass says how to answer them."""

    timeout = _IDLE_S

    @abc.abstractmethod
    def answer(self) -> None:
        """Send the head and, but to HEAD, the body of what `self.path` names."""

    def do_GET(self) -> None:
        """`answer`."""
        self.answer()

    def do_HEAD(self) -> None:
        """`answer`."""
        self.answer()

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""
