"""A name server on loopback whose names point where a test wants."""

import socket
import threading
import time
from collections.abc import Callable, Sequence

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Reply = Callable[[dns.message.Message], bytes | None]


class StubDns:
    """Answers over UDP; `asked` lists (name, type) in order. Names that it lacks do not exist."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.replies: dict[str, Reply] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.nameserver = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def at(self, name: str, *turns: Sequence[str], ttl: int = 0, delay_s: float = 0.0) -> str:
        """Let a name be at these addresses: one list per query of their type, the last for ever."""
        left = list(turns)

        def reply(query: dns.message.Message) -> bytes:
            time.sleep(delay_s)
            question = query.question[0]
            kind = dns.rdatatype.to_text(question.rdtype)
            addresses = [a for a in left[0] if (":" in a) == (kind == "AAAA")]
            if len(left) > 1:
                left.pop(0)
            answer = dns.message.make_response(query)
            if addresses:
                answer.answer.append(
                    dns.rrset.from_text_list(question.name, ttl, "IN", kind, addresses)
                )
            return answer.to_wire()

        self.replies[name] = reply
        return name

    def failing(self, name: str) -> str:
        def reply(query: dns.message.Message) -> bytes:
            answer = dns.message.make_response(query)
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer.to_wire()

        self.replies[name] = reply
        return name

    def silent(self, name: str) -> str:
        self.replies[name] = lambda _: None
        return name

    def garbage(self, name: str) -> str:
        self.replies[name] = lambda query: query.to_wire()[:2] + b"\x81\x80" + b"\xc0" * 200
        return name

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            threading.Thread(target=self._answer, args=(data, peer), daemon=True).start()

    def _answer(self, data: bytes, peer: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype)))
        missing = dns.message.make_response(query)
        missing.set_rcode(dns.rcode.NXDOMAIN)
        reply = self.replies.get(name, lambda _: missing.to_wire())(query)
        if reply is not None:
            self._socket.sendto(reply, peer)
