"""Debian packages by name, unpacked in a cache folder without root rights."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_TIMEOUT_S = 300


def unpacked(name: str, version: str | None = None) -> Path:
    """Folder that holds a package's files; downloaded the first time, by any number of processes.

    The test is skipped, saying why, where apt or the network is missing.
    """
    cache = _cache()
    target = cache / (f"{name}_{version}" if version else name)
    with open(cache / f".{target.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                pytest.skip(f"{name}: this system has no apt-get and dpkg-deb")
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                package = _download(name if version is None else f"{name}={version}", folder)
                _run(["dpkg-deb", "-x", str(package), f"{folder}/files"], folder)
                os.rename(f"{folder}/files", target)
    return target


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(base) / "dalle-graph" / "debian"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _download(package: str, folder: str) -> Path:
    """The package's file; with lists of our own where the system's are missing or too old."""
    error = _run(["apt-get", "download", package], folder)
    if error is not None:
        state = _cache() / "apt"
        for part in ("lists/partial", "archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        own = [
            "-o", f"Dir::State::Lists={state}/lists",
            "-o", f"Dir::Cache={state}",
            "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        with open(state / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            error = _run(["apt-get", *own, "update"], folder)
            error = _run(["apt-get", *own, "download", package], folder) or error
    found = list(Path(folder).glob("*.deb"))
    if not found:
        pytest.skip(f"{package} cannot be downloaded with apt-get: {error}")
    return found[0]


def _run(command: list[str], folder: str) -> str | None:
    """The end of the command's complaints, or None if it went well."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as late:
        return str(late)
    return None if done.returncode == 0 else (done.stderr or done.stdout)[-300:].strip()
