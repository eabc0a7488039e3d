"""Clusters of separate processes for Beam: Dask's, and Beam's own job service with its workers."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.runners import Engine

REPOSITORY = Path(__file__).resolve().parents[2]
# Each worker has a network address of its own, as on two machines.
HOSTS = ("127.0.0.2", "127.0.0.3")
_START_SECONDS = 60


@dataclass(frozen=True)
class DaskCluster:
    """A scheduler, and one worker process of one thread on each host."""

    address: str
    workers: dict[str, "subprocess.Popen[bytes]"]

    @property
    def options(self) -> str:
        """Beam's options, as in DALLE_BEAM_OPTIONS."""
        return f"--dask_client_address={self.address}"

    @property
    def engine(self) -> Engine:
        return Engine("DaskRunner", (self.options,))

    def kill_a_busy_worker(self, within: float) -> str:
        """Kill -9 the first worker that is found at work; its host."""
        from distributed import Client

        end = time.monotonic() + within
        with Client(self.address, set_as_default=False) as client:
            while time.monotonic() < end:
                for address, keys in client.processing().items():
                    if keys:
                        host = address.removeprefix("tcp://").partition(":")[0]
                        self.workers[host].kill()
                        self.workers[host].wait()
                        return host
                time.sleep(0.002)
        raise AssertionError("no worker was ever at work")


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[DaskCluster]:
    """A cluster as people start one by hand; without nannies: a killed worker stays away."""
    from distributed import Client

    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            _process(
                [*dask, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)], folder
            )
        )
        _wait_for_file(file)
        worker = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            "--scheduler-file",
            str(file),
        ]
        worker += ["--nthreads", "1", "--no-dashboard", "--no-nanny"]
        scratch = ["--local-directory", str(folder)]
        workers = {
            host: stack.enter_context(_process([*worker, "--host", host, *scratch], folder))
            for host in HOSTS
        }
        address = json.loads(file.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(len(HOSTS), timeout=_START_SECONDS)
        yield DaskCluster(address, workers)


@contextlib.contextmanager
def portable_service(folder: Path) -> Iterator[Engine]:
    """Beam's job service, and a pool that starts a worker process where the service asks it to."""
    ports = folder / "job_service.port"
    service = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main"]
    pool_port = _free_port()
    pool = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    with (
        _process([*service, "--port_file", str(ports)], folder),
        _process([*pool, f"--service_port={pool_port}"], folder),
    ):
        _wait_for_file(ports)
        _wait_for_port(pool_port)
        yield Engine(
            "PortableRunner",
            (
                f"--job_endpoint=127.0.0.1:{ports.read_text()}",
                "--environment_type=EXTERNAL",
                f"--environment_config=127.0.0.1:{pool_port}",
            ),
        )


@contextlib.contextmanager
def _process(command: Sequence[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that finds this project and the tests' helpers; its children end with it."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    # Beam's worker pool starts `python` by that name.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = os.environ | {"PYTHONPATH": path, "PATH": programs} | threads
    with open(folder / "cluster.log", "ab") as log:
        started = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield started
    finally:
        children = psutil.Process(started.pid).children(recursive=True) if _runs(started) else []
        for each in (psutil.Process(started.pid), *children) if _runs(started) else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        started.wait()


def _wait_for_file(path: Path) -> None:
    """Wait until a file is there and has something in it."""
    end = time.monotonic() + _START_SECONDS
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.02)


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert time.monotonic() < end, f"nobody listens on port {port}"
        time.sleep(0.05)


def _runs(started: "subprocess.Popen[bytes]") -> bool:
    return started.poll() is None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
