import subprocess
from pathlib import Path

import pytest
from encoded_batches import build

from pipelines.layout import Layout


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoded")
    build(root)
    return root


@pytest.fixture
def layout(encoded: Path, tmp_path: Path) -> Layout:
    subprocess.run(["cp", "-r", str(encoded), str(tmp_path / "data")], check=True)
    return Layout(str(tmp_path / "data"))
