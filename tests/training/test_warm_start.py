"""A training that begins with a finished transformer's weights."""

import json
import signal
from pathlib import Path

import data_root
import pytest
import tiny_training
import torch
from safetensors.torch import load_file
from tiny_training import Finished

from pipelines.layout import Layout
from training import code_versions, train_dalle
from training import finished as finished_model
from training.errors import InputError
from training.promotion import log, move, versions
from training.promotion.gate import Limits, compare

pytestmark = pytest.mark.usefixtures("tiny_recipe")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "final" / "model.safetensors")


def train(finished: Finished, output: Path, updates: int, start: Path | None) -> None:
    train_dalle.train(
        tiny_training.NAME, finished.dataset, output, updates=updates, start_from=start
    )


def test_it_begins_where_the_other_ended_and_says_so(finished: Finished, tmp_path: Path) -> None:
    train(finished, tmp_path / "warm", 1, finished.dalle)
    train(finished, tmp_path / "cold", 1, None)
    begun = weights(finished.dalle)

    def distance(model: Path) -> float:
        return max(float((w - begun[name]).abs().max()) for name, w in weights(model).items())

    # In one update AdamW moves a weight by about the step size, here 6e-4.
    assert 0 < distance(tmp_path / "warm") < 2e-3 < 0.02 < distance(tmp_path / "cold")
    said = finished_model.read_summary(tmp_path / "warm")
    assert said["warm_start"] == finished_model.sha256(finished.dalle)
    assert finished_model.read_summary(tmp_path / "cold")["warm_start"] == ""
    assert said["code_version"] == code_versions.DALLE


def test_a_stopped_one_ends_as_if_never_stopped(finished: Finished, tmp_path: Path) -> None:
    updates, stopped = 30, tmp_path / "stopped"
    program = tiny_training.start(
        "training.train_dalle", "--recipe", tiny_training.NAME, "--dataset", finished.dataset,
        "--output", stopped, "--updates", updates, "--start-from", finished.dalle,
    )  # fmt: skip
    tiny_training.wait_for_update(program, stopped, 2)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (143, "")
    (*_, newest) = sorted((stopped / "checkpoints").glob("update-*"))
    state = json.loads((newest / "state.json").read_text())
    assert state["update"] < updates
    assert state["warm_start"] == finished_model.sha256(finished.dalle)
    assert state["code_version"] == code_versions.DALLE
    assert state["dataset"] == Path(finished.dataset).name.removeprefix("v=")
    train(finished, stopped, updates, finished.dalle)
    train(finished, tmp_path / "whole", updates, finished.dalle)
    one, other = weights(stopped), weights(tmp_path / "whole")
    assert all(torch.equal(w, other[name]) for name, w in one.items())


def test_another_start_is_another_training(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "dalle"
    train(finished, output, 2, finished.dalle)
    train(finished, output, 2, finished.dalle)
    assert "is up to date" in capsys.readouterr().out
    train(finished, output, 2, None)
    said = capsys.readouterr().out
    assert "is up to date" not in said
    assert "going on from" not in said
    assert finished_model.read_summary(output)["warm_start"] == ""


@pytest.mark.parametrize("name", ["tokenizer_sha256", "dvae_sha256"])
def test_weights_of_other_tokens_are_refused(finished: Finished, tmp_path: Path, name: str) -> None:
    layout = data_root.make(tmp_path / "data", finished)
    data_root.say(layout, **{name: "0" * 64})
    with pytest.raises(InputError, match=f"has {name} 0000.*begin with another model"):
        train(finished, tmp_path / "out", 2, Path(layout.model("dalle")))


def test_weights_of_another_shape_are_refused(finished: Finished, tmp_path: Path) -> None:
    layout = data_root.make(tmp_path / "data", finished)
    config = Path(layout.model("dalle")) / "final" / "config.json"
    value = json.loads(config.read_text())
    value["transformer"]["depth"] = 9
    config.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"has depth 9, recipe tiny on .* needs 4"):
        train(finished, tmp_path / "out", 2, Path(layout.model("dalle")))
    with pytest.raises(InputError, match="holds no finished model"):
        train(finished, tmp_path / "out", 2, tmp_path / "nothing")


def test_launched_again_it_begins_where_it_began(finished: Finished, tmp_path: Path) -> None:
    layout: Layout = data_root.make(tmp_path / "data", finished)
    version = Path(finished.dataset).name.removeprefix("v=")
    assert versions.warm_start(layout, version) is None

    def promote() -> None:
        found = compare(layout, Limits(margin=100.0, least_perplexity=1.0))
        move.promote(layout, found, who="test", why="passed")

    promote()
    first = log.history(layout)[0].model
    assert versions.warm_start(layout, version) is None, "it began with random weights itself"
    start = versions.warm_start(layout, "a newer version")
    assert start == f"{versions.directory(layout, first.version)}/dalle"
    train(finished, Path(layout.model("dalle")), 2, Path(start))
    promote()
    assert log.history(layout)[1].model.warm_start == first.dalle_sha256
    assert versions.warm_start(layout, version) == start
    assert versions.warm_start(layout, "a newer version") != start
