"""One training on two hosts by torchrun's static rendezvous, and a host that is lost."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import tiny_training
from hosts import ADDRESSES, NAMESPACES, Host, two_hosts
from tiny_training import Finished

from assets.lib.trainer import TrainingProgram
from training.reporting import read_metrics
from training.runtime import PEER_LOST

# Of these many all steps are in the warm-up, whatever the number of updates.
ALIKE, UPDATES = 5, 20


def _start(
    hosts: Sequence[Host],
    finished: Finished,
    recipe: str,
    output: Path,
    processes: int = 1,
    options: Sequence[str] = (),
) -> list["subprocess.Popen[str]"]:
    """The same command on each host, but for the number of the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [tiny_training.__file__, "training.train_dalle", "--recipe", recipe]
    program += ["--dataset", finished.dataset, "--output", str(output)]
    program += ["--updates", str(UPDATES), *options]
    meeting = {"NNODES": "2", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(port)}
    groups = []
    for rank, host in enumerate(hosts):
        place = meeting | {"NODE_RANK": str(rank), "LOCAL_ADDR": host.address}
        torchrun = {f"PET_{name}": value for name, value in place.items()}
        network = {"GLOO_SOCKET_IFNAME": host.interface}
        launch = [sys.executable, "-m", "training.launch", f"--nproc-per-node={processes}"]
        groups.append(
            subprocess.Popen(
                [*host.enter, *launch, *program],
                cwd=tiny_training.ROOT,
                env=tiny_training.environment() | torchrun | network,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return groups


def _kill(group: "subprocess.Popen[str]") -> None:
    launcher = psutil.Process(group.pid)
    for process in (*launcher.children(recursive=True), launcher):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    group.wait()


def test_training_goes_on_after_the_host_where_all_meet_is_lost(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    output = tmp_path / "dalle"
    with two_hosts(ADDRESSES) as hosts:
        lost, left = _start(hosts, finished, tiny_recipe, output)
        tiny_training.wait_for_update(lost, output, ALIKE)
        _kill(lost)
        _, errors = left.communicate(timeout=60)
        assert "Traceback" not in errors
        assert "lost the connection" in errors
        assert left.returncode == PEER_LOST
        assert errors.splitlines()[-1].startswith("error: another host")
        before = _losses(output)
        assert ALIKE <= len(before) < UPDATES
        _finish(_start(hosts, finished, tiny_recipe, output))
    found = _losses(output)
    assert [step for step, _ in found] == list(range(1, UPDATES + 1))
    assert found[:ALIKE] == before[:ALIKE]
    _require_same_beginning(found, finished)
    assert (output / "final" / "_SUCCESS").exists()


def test_two_networks_train_one_model(finished: Finished, tiny_recipe: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        try:
            hosts = stack.enter_context(two_hosts(NAMESPACES))
        except OSError as error:
            pytest.skip(f"no network namespaces here, only the test above: {error}")
        _finish(_start(hosts, finished, tiny_recipe, tmp_path))
    assert [step for step, _ in _losses(tmp_path)] == list(range(1, UPDATES + 1))
    _require_same_beginning(_losses(tmp_path), finished)


def test_each_host_holds_a_copy_in_shards(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    options = ("--shard=machine", "--compress")
    with two_hosts(ADDRESSES) as hosts:
        _finish(_start(hosts, finished, tiny_recipe, tmp_path, 2, options))
    _require_same_beginning(_losses(tmp_path), finished, near=2e-2)
    # Less than the gradients of a process's half of the model.
    [first, *_] = read_metrics(tmp_path)
    model = json.loads((tmp_path / "final" / "summary.json").read_text())
    assert 0 < first["wire_bytes"] < 4 * model["parameters"] / 2


def _finish(groups: list["subprocess.Popen[str]"]) -> None:
    ends = [(group.communicate(timeout=120)[1], group.returncode) for group in groups]
    assert [status for _, status in ends] == [0, 0], ends


def _require_same_beginning(
    found: list[tuple[int, float]], finished: Finished, near: float = 1e-3
) -> None:
    """Both hosts' rows count: the losses are those of one process that has them all."""
    alone = _losses(finished.dalle)
    for (_, loss), (_, expected) in zip(found[:ALIKE], alone[:ALIKE], strict=True):
        assert loss == pytest.approx(expected, rel=near)


def test_dagster_starts_its_own_host_where_several_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    program = TrainingProgram("training.train_dalle", ("--recipe", "demo"), processes=8)
    monkeypatch.delenv("PET_NNODES", raising=False)
    assert "--standalone" in program.argv()
    monkeypatch.setenv("PET_NNODES", "2")
    words = program.argv()[1:]
    start = ["-m", "training.launch", "--nproc-per-node=8", "-m", "training.train_dalle"]
    assert words == [*start, "--recipe", "demo"]


def _losses(output: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["image"]) for line in read_metrics(output)]
