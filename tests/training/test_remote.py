"""Local copies of models that lie in an object store: a real S3 server, no training."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, s3_server

from pipelines import storage
from training import remote

MARKER = "_SUCCESS"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log"):
        yield f"s3://{BUCKET}"


@pytest.fixture
def model(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a model that is not there yet, and an empty cache."""
    monkeypatch.setenv("DALLE_MODEL_CACHE", str(tmp_path / "cache"))
    return f"{store}/{tmp_path.name}/dalle"


def write(final: Path, text: str) -> None:
    final.mkdir(parents=True, exist_ok=True)
    (final / "model").write_text(text)
    (final / MARKER).write_text("{}")


def put(url: str, text: str) -> None:
    storage.write_bytes(f"{url}/final/model", text.encode())
    storage.write_bytes(f"{url}/final/{MARKER}", b"{}")


def test_what_was_not_uploaded_is_uploaded(model: str) -> None:
    final = remote.local(model) / "final"
    write(final, "new")
    remote.pull(final)
    assert storage.read_bytes(f"{model}/final/model") == b"new"
    # A kill in the middle leaves no marker there.
    write(final, "newer")
    (final / ".remote.json").unlink()
    storage.remove(f"{model}/final/{MARKER}")
    remote.pull(final)
    assert storage.read_bytes(f"{model}/final/model") == b"newer"


def test_what_somebody_else_has_finished_meanwhile_counts(model: str) -> None:
    final = remote.local(model) / "final"
    write(final, "old, of a machine that was killed before it could upload")
    put(model, "new")
    remote.pull(final)
    assert storage.read_bytes(f"{model}/final/model") == b"new"
    assert (final / "model").read_text() == "new"


def test_what_is_gone_from_the_store_goes_here_too(model: str) -> None:
    final = remote.local(model) / "final"
    put(model, "new")
    remote.pull(final)
    storage.remove(f"{model}/final", recursive=True)
    remote.pull(final)
    assert not final.exists()


def test_a_copy_can_be_forgotten_and_comes_back(model: str) -> None:
    final = remote.local(model) / "final"
    put(model, "new")
    remote.pull(final)
    remote.forget(final)
    assert not final.exists()
    assert storage.exists(f"{model}/final/{MARKER}")
    remote.pull(final)
    assert (final / "model").read_text() == "new"


@pytest.mark.parametrize("name", ["final/../../../outside", "final/a//b", "../outside"])
def test_a_name_that_leads_elsewhere_is_refused(model: str, name: str, tmp_path: Path) -> None:
    put(model, "new")
    fs, path = storage.filesystem(model)
    fs.call_s3("put_object", Bucket=BUCKET, Key=f"{path.partition('/')[2]}/{name}", Body=b"x")
    with pytest.raises(ValueError, match="which is not below it"):
        remote.pull_run(remote.local(model))
    assert not list(tmp_path.rglob("outside"))


def test_which_places_are_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_MODEL_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    assert remote.local("models/dalle") == Path("models/dalle")
    assert remote.local("file:///data/models") == Path("/data/models")
    there = remote.local("s3://bucket/data")
    assert there == tmp_path / "cache" / "s3" / "bucket" / "data"
    assert remote.origin(there) == "s3://bucket/data"
    for place in (tmp_path, tmp_path / "cache", tmp_path / "cache" / "s3"):
        assert remote.origin(place) is None
