"""Two hosts on one machine: two loopback addresses, or two network namespaces and a cable."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

ADDRESSES = "addresses"
NAMESPACES = "namespaces"


@dataclass(frozen=True)
class Host:
    """Where a training group runs.

    Attributes:
        address: of this host, in the network of both.
        interface: the network interface that has it.
        enter: words in front of a command that make it run there.
    """

    address: str
    interface: str
    enter: tuple[str, ...] = ()


@contextlib.contextmanager
def two_hosts(kind: str) -> Iterator[tuple[Host, Host]]:
    """Two hosts that see each other.

    Raises:
        OSError: if this machine gives no network namespaces.
    """
    if kind == ADDRESSES:
        yield Host("127.0.0.2", "lo"), Host("127.0.0.3", "lo")
        return
    names = [f"dalle-{os.getpid()}-{end}" for end in "ab"]
    ends = [f"dt{os.getpid() % 10**7}{end}" for end in "ab"]
    with contextlib.ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        _ip("link", "add", ends[0], "netns", names[0], "type", "veth",
            "peer", "name", ends[1], "netns", names[1])  # fmt: skip
        hosts = []
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            address = f"10.213.7.{number}"
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            for link in (end, "lo"):
                _ip("-n", name, "link", "set", link, "up")
            hosts.append(Host(address, end, ("ip", "netns", "exec", name)))
        yield hosts[0], hosts[1]


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError("the command ip is not installed") from error
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
