"""Memory of this machine, or of the container that this process is confined to."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process can take before the machine swaps or its container is killed.

    Of a container it reads the limit of the control group, version 2
    (https://docs.kernel.org/admin-guide/cgroup-v2.html); cached files give way, and do not count.
    """
    free = int(psutil.virtual_memory().available)
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if not limit.exists() or not limit.read_text().strip().isdigit():
        return free
    lines = (line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    cached = next((int(value) for name, value in lines if name == "inactive_file"), 0)
    left = int(limit.read_text()) - int(used.read_text()) + cached
    return max(0, min(free, left))
