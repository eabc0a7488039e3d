"""Which database Dagster uses, and what is said where PostgreSQL cannot be used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.lib.settings import REPOSITORY
from assets.lib.storage import StorageError, postgres_url


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [n for n in os.environ if n.startswith(("DAGSTER_", "DALLE_"))]:
        monkeypatch.delenv(name)
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def test_sqlite_without_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_POSTGRES_URL", "")
    with dg.DagsterInstance.get() as instance:
        assert instance.get_runs() == []
    assert (home / "history" / "runs.db").is_file()


@pytest.mark.parametrize(
    ("program", "url", "said"),
    [
        (
            ("dagster", "run", "list"),
            "postgresql://me:secret@127.0.0.1:1/runs",
            "PostgreSQL at postgresql://me:***@127.0.0.1:1/runs cannot be used: connection",
        ),
        (
            ("dagster", "run", "list"),
            "postgresql://127.0.0.1:1/runs?user=me&password=secret",
            "PostgreSQL at postgresql://127.0.0.1:1/runs cannot be used: connection",
        ),
        (
            ("assets.up",),
            "postgres://me:secret@127.0.0.1/runs",
            "is no URL of a PostgreSQL database; write it as postgresql://USER:PASSWORD@HOST",
        ),
    ],
)
def test_an_error_is_one_sentence(program: tuple[str, ...], url: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *program],
        cwd=REPOSITORY,
        env=os.environ | {"DALLE_POSTGRES_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.lower().startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("url", ["postgresql", "mysql://host/db", "postgresql://host:x/db"])
def test_a_wrong_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DALLE_POSTGRES_URL", url)
    with pytest.raises(StorageError, match="is no URL of a PostgreSQL database"):
        postgres_url()


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_POSTGRES_URL", "postgresql://host/db")
    monkeypatch.setitem(sys.modules, "dagster_postgres", None)
    with pytest.raises(StorageError, match="dagster_postgres is not installed; run: pip install"):
        dg.DagsterInstance.get()
