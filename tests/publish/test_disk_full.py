"""A disk that is full in the middle of a stage and of a publication."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import encoded_batches
import pytest
import shard_stages
from encoded_batches import CONFIG

from pipelines import ledger, storage
from pipelines.layout import Layout
from pipelines.publish import versions
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import verify
from pipelines.runners import Engine

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small disk, as root on Linux"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a disk here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes."""
    free = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_bsize - leave))
    return ballast


def test_a_stage_says_so_and_goes_on_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    shards = shard_stages.write_input(str(tmp_path / "input"))
    here, whole = Layout(str(disk)), Layout(str(tmp_path / "whole"))
    ballast = fill(disk, leave=40_000)
    # Beam's, with the words of ours.
    with pytest.raises(RuntimeError, match=r"no space left; free some and start again.*part-"):
        shard_stages.stage(here).run(shards, Engine())
    output = shard_stages.stage(here).output
    assert ledger.read_success(output) is None
    finished = storage.list_files(f"{output}/_receipts", ".json")
    assert 0 < len(finished) < shard_stages.SHARDS
    ballast.unlink()
    again = shard_stages.stage(here).run(shards, Engine())
    assert again == shard_stages.stage(whole).run(shards, Engine())
    assert not [path for path in disk.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("leave", [8_000, 100_000])
def test_a_publication_keeps_the_version_before(disk: Path, tmp_path: Path, leave: int) -> None:
    encoded_batches.build(tmp_path / "data")
    subprocess.run(["cp", "-r", f"{tmp_path}/data", str(disk)], check=True)
    here, there = Layout(f"{disk}/data"), Layout(f"{tmp_path}/data")
    first = publish(["a"], here, CONFIG)
    ballast = fill(disk, leave)
    with pytest.raises(OSError, match=f"no space left; free some and start again.*{disk}"):
        publish(["a", "b"], here, CONFIG)
    assert versions.versions(here) == [first.directory]
    assert versions.current(here) == first.version
    verify(first)
    ballast.unlink()
    again = publish(["a", "b"], here, CONFIG)
    verify(again)
    assert again.version == publish(["a", "b"], there, CONFIG).version
