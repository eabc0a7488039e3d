"""A Dagster home, a data root and a port of the tests' own, and the processes of it."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Site:
    """One isolated deployment.

    Attributes:
        directory: holds everything; its path is in the command line or the environment of every
            process of the deployment.
        environment: for child processes.
    """

    directory: Path
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def data(self) -> Path:
        return self.directory / "demo" / "data"

    @contextlib.contextmanager
    def as_environment(self) -> Iterator[None]:
        """Make this process one of the deployment."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [n for n in os.environ if n.startswith(("DAGSTER_", "DALLE_"))]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(REPOSITORY)
            yield

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The deployment's Dagster instance, in the deployment's environment."""
        with self.as_environment(), dg.DagsterInstance.get() as instance:
            yield instance


@dataclass(frozen=True)
class FinishedSite(Site):
    """A deployment on which the demonstration ran, and what it printed."""

    output: str


def make_site(directory: Path, updates: int) -> Site:
    home = directory / "home"
    home.mkdir(parents=True)
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "DALLE_"))}
    environment |= {
        "DAGSTER_HOME": str(home),
        "DALLE_DEMO_DIRECTORY": str(directory / "demo"),
        "DALLE_DEMO_PORT": str(free_port()),
        "DALLE_REPORT_PORT": str(free_port()),
        "DALLE_DEMO_LIMIT": "64",
        "DALLE_MAX_UPDATES": str(updates),
    }
    return Site(directory, environment)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_demo(site: Site) -> "subprocess.CompletedProcess[str]":
    """Run `make demo`'s program on a deployment."""
    return subprocess.run(
        [sys.executable, "-m", "assets.demo"],
        cwd=REPOSITORY,
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def processes(directory: Path) -> list[psutil.Process]:
    """Live processes, this one left out, that name `directory` in arguments or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = any(str(directory) in word for word in process.cmdline())
            home = process.environ().get("DAGSTER_HOME", "")
            live = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            if live and (named or home.startswith(str(directory))):
                found.append(process)
    return found


def still_running(directory: Path, within: float) -> list[str]:
    """Command lines of what still runs after so many seconds; empty as soon as nothing does."""
    end = time.monotonic() + within
    while (left := processes(directory)) and time.monotonic() < end:
        time.sleep(0.2)
    lines = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return lines
