from pathlib import Path

import psutil
import pytest

from training import host_memory

GIB = 2**30


def group(directory: Path, limit: str, used: int, cached: int) -> Path:
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\n")
    return directory


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    found = host_memory.available(group(tmp_path, str(3 * GIB // 2), GIB, GIB // 4))
    assert found == 3 * GIB // 4


def test_more_than_the_limit_is_nothing(tmp_path: Path) -> None:
    assert host_memory.available(group(tmp_path, "1000", 2000, 0)) == 0


@pytest.mark.parametrize("limit", ["max", str(2**62)])
def test_without_a_limit_it_is_the_machine_s(tmp_path: Path, limit: str) -> None:
    found = host_memory.available(group(tmp_path, limit, GIB, 0))
    assert found == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert host_memory.available(tmp_path / "none") == pytest.approx(found, rel=0.2)
