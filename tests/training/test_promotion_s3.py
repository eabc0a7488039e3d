"""The pointer on an object store: a real S3 server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import data_root
import pytest
from s3_server import BUCKET, s3_server
from tiny_training import Finished

from pipelines import storage
from pipelines.layout import Layout
from training.promotion import log, move, versions
from training.promotion.gate import Limits, compare
from training.promotion.log import Action, PromotionError

pytestmark = pytest.mark.usefixtures("tiny_recipe")


@pytest.fixture
def layout(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """A data root in a bucket."""
    monkeypatch.setenv("DALLE_MODEL_CACHE", str(tmp_path / "cache"))
    here = data_root.make(tmp_path / "data", finished)
    with s3_server(tmp_path / "s3.log"):
        root = f"s3://{BUCKET}/data"
        fs, path = storage.filesystem(root)
        fs.put(here.root, path, recursive=True)
        yield Layout(root)


def test_the_pointer_moves_once(layout: Layout) -> None:
    found = compare(layout, Limits(least_perplexity=1.0))
    entry = move.promote(layout, found, who="one", why="passed")
    versions.verify(layout, found.candidate.version)
    with pytest.raises(PromotionError, match="at the same time"):
        log.append(layout, None, Action.PROMOTED, found.candidate, who="two", why="passed")
    assert log.history(layout) == [entry]
    assert entry.who == "one"
    # The rest: another version, and back.
    url = f"{layout.model('dalle')}/final/summary.json"
    storage.write_json(url, storage.read_json(url) | {"note": "another model"})
    second = compare(layout, Limits(least_perplexity=1.0))
    assert second.figures["promoted_nats"] == found.figures["nats"]
    move.promote(layout, second, who="one", why="passed")
    move.roll_back(layout, "", who="one", why="because")
    moved = log.current(layout)
    assert moved is not None
    assert moved.model == found.candidate
    versions.remove(layout, second.candidate.version)
    assert versions.kept(layout) == [found.candidate.version]


def test_a_copy_that_was_killed_is_no_version(layout: Layout) -> None:
    found = compare(layout, Limits(least_perplexity=1.0))
    target = versions.directory(layout, found.candidate.version)
    storage.write_bytes(f"{target}/dalle/final/model.safetensors", b"half")
    assert versions.kept(layout) == []
    assert log.current(layout) is None
    move.promote(layout, found, who="one", why="passed")
    versions.verify(layout, found.candidate.version)


def test_what_changed_since_the_comparison_spoils_no_version(layout: Layout) -> None:
    found = compare(layout, Limits(least_perplexity=1.0))
    entry = move.promote(layout, found, who="one", why="passed")
    target = versions.directory(layout, entry.model.version)
    before = storage.tree(target)
    # Another machine came to the same version, and did not see the marker yet.
    marker = storage.read_bytes(f"{target}/_SUCCESS")
    storage.remove(f"{target}/_SUCCESS")
    url = f"{layout.model('dalle')}/final/summary.json"
    storage.write_json(url, storage.read_json(url) | {"note": "another model"})
    with pytest.raises(PromotionError, match="changed since the model was compared"):
        versions.keep(layout, found.candidate)
    storage.write_bytes(f"{target}/_SUCCESS", marker)
    assert {n: s for n, s in storage.tree(target).items() if n != "_SUCCESS"} == {
        n: s for n, s in before.items() if n != "_SUCCESS"
    }
    versions.verify(layout, entry.model.version)
