"""The gate, its overruling, roll back, and what a kill leaves."""

import json
import subprocess
import sys
from pathlib import Path

import data_root
import pytest
import tiny_training
from tiny_training import Finished
from typer.testing import CliRunner

from pipelines import storage
from pipelines.layout import Layout
from pipelines.publish.remove import remove as remove_dataset
from pipelines.publish.use import uses
from training import cli, promote, sample
from training.errors import InputError
from training.promotion import comparison, log, move, versions
from training.promotion.comparison import Check, Comparison
from training.promotion.gate import Limits, compare
from training.promotion.log import PromotionError

pytestmark = pytest.mark.usefixtures("tiny_recipe")
LIMITS = Limits(least_perplexity=1.0)
# The tiny corpus has hardly any codes.
PROMOTE = ("promote", "--least-perplexity", "1", "--reason", "tiny")
# Ends itself by SIGKILL at the n-th time that it names, links or removes a file.
KILLED = """
import os, signal, sys
from pipelines.layout import Layout
from training.promotion import comparison, move
layout, left = Layout(sys.argv[1]), int(sys.argv[2])
found = comparison.read(layout)
def watch(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.remove", "shutil.rmtree"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
move.promote(layout, found, who="test", why="passed every check")
"""


@pytest.fixture
def layout(tmp_path: Path, finished: Finished) -> Layout:
    return data_root.make(tmp_path / "data", finished)


def promoted(layout: Layout) -> Comparison:
    found = compare(layout, LIMITS)
    move.promote(layout, found, who="test", why="passed")
    return found


def command(layout: Layout, *words: str) -> tuple[int, str]:
    """Exit status and output of `python -m training.promote`."""
    try:
        done = CliRunner().invoke(
            promote.app, [words[0], "--data-root", layout.root, *words[1:]], catch_exceptions=False
        )
    except InputError as error:
        return cli.USAGE, str(error)
    return done.exit_code, done.output


def test_the_first_model_is_promoted_and_survives_the_next_training(layout: Layout) -> None:
    found = promoted(layout)
    assert found.found == []
    entry = log.current(layout)
    assert entry is not None
    assert entry.model == found.candidate
    assert entry.model.code_version
    assert entry.figures["nats"] > 0
    assert entry.who == "test"
    data_root.spoil(layout, 1.0)
    versions.verify(layout, entry.model.version)
    place = Path(versions.directory(layout, entry.model.version))
    drawn = place.parent / "drawn"
    sample.sample(place / "dalle", drawn, limit=2)
    assert (drawn / "samples.png").exists()


def test_promoting_it_again_changes_nothing(layout: Layout) -> None:
    promoted(layout)
    promoted(layout)
    assert len(log.history(layout)) == 1


def test_a_regressed_model_is_refused_and_the_promoted_one_stays(layout: Layout) -> None:
    first = promoted(layout)
    data_root.spoil(layout, 0.2)
    found = compare(layout, LIMITS)
    assert found.figures["nats"] > found.figures["promoted_nats"] + LIMITS.margin
    assert found.figures["promoted_nats"] == first.figures["nats"]
    assert [check for check in Check if found.problems[check]] == [Check.NO_REGRESSION]
    status, said = command(layout, *PROMOTE)
    assert (status, "is refused" in said) == (2, True)
    entry = log.current(layout)
    assert entry is not None
    assert entry.model == first.candidate
    assert versions.kept(layout) == [first.candidate.version]
    assert compare(layout, Limits(margin=100.0, least_perplexity=1.0)).found == []


def test_limits_of_ones_own_need_a_reason_that_stays(layout: Layout) -> None:
    promoted(layout)
    data_root.spoil(layout, 0.2)
    for limit in (("--margin", "100"), PROMOTE[1:3]):
        status, said = command(layout, "promote", *limit)
        assert (status, "needs --reason" in said) == (2, True)
    status, said = command(layout, *PROMOTE, "--margin", "inf")
    assert (status, "a margin is a number of nats" in said) == (2, True)
    assert len(log.history(layout)) == 1
    assert command(layout, *PROMOTE, "--margin", "100")[0] == 0
    entry = log.history(layout)[1]
    assert entry.why == "passed every check by limits of its own: tiny"
    assert entry.figures["margin"] == 100


@pytest.mark.parametrize(
    ("words", "why"),
    [((), "passed every check"), (("--reason", "nicer"), "passed every check: nicer")],
)
def test_a_promotion_without_limits_needs_no_reason(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], why: str
) -> None:
    monkeypatch.setattr(promote, "_compared", lambda place, *_: compare(place, LIMITS))
    assert command(layout, "promote", *words)[0] == 0
    assert log.history(layout)[0].why == why


def test_truncated_weights_are_a_problem_of_the_candidate(layout: Layout) -> None:
    weights = Path(layout.model("dalle"), "final", "model.safetensors")
    with open(weights, "r+b") as stream:
        stream.truncate(500)
    found = compare(layout, LIMITS)
    assert f"{weights} is damaged" in found.problems[Check.WEIGHTS_FINITE][0]
    status, said = command(layout, *PROMOTE)
    assert (status, "is refused" in said) == (2, True)


def test_overruling_needs_a_reason_and_something_to_overrule(layout: Layout) -> None:
    with pytest.raises(PromotionError, match="nothing to overrule"):
        move.overrule(layout, compare(layout, LIMITS), who="me", why="because")
    promoted(layout)
    data_root.spoil(layout, 0.2)
    found = compare(layout, LIMITS)
    with pytest.raises(PromotionError, match="--reason"):
        move.overrule(layout, found, who="me", why=" ")
    status, said = command(
        layout, "overrule", "--reason", "the old one was trained on wrong data", "--by", "Ada",
        "--least-perplexity", "1",
    )  # fmt: skip
    assert status == 0, said
    entry = log.history(layout)[1]
    assert (entry.action, entry.who) == (log.Action.OVERRULED, "Ada")
    assert entry.why == "the old one was trained on wrong data"
    assert entry.model == found.candidate
    assert "nats per image token" in entry.overruled[0]


def test_weights_that_are_not_finite_cannot_be_overruled(layout: Layout) -> None:
    data_root.spoil(layout, float("inf"))
    found = compare(layout, LIMITS)
    assert found.problems[Check.WEIGHTS_FINITE]
    for act in (move.promote, move.overrule):
        with pytest.raises(move.RefusedError):
            act(layout, found, who="me", why="because")
    assert log.history(layout) == []


def test_a_dead_codebook_is_refused(layout: Layout) -> None:
    found = compare(layout, Limits(least_perplexity=1000.0))
    assert [check for check in Check if found.problems[check]] == [Check.CODEBOOK_ALIVE]


def test_rolling_back_and_not_forward_again(layout: Layout) -> None:
    first = promoted(layout)
    data_root.say(layout, note="the same weights, another model")
    second = promoted(layout)
    assert second.candidate.version != first.candidate.version
    status, said = command(layout, "roll-back", "--reason", "it draws no people", "--by", "Ada")
    assert status == 0, said
    assert [e.model.version for e in log.history(layout)] == [
        first.candidate.version,
        second.candidate.version,
        first.candidate.version,
    ]
    again = compare(layout, LIMITS)
    assert "Ada took it back" in again.problems[Check.NOT_ROLLED_BACK][0]
    with pytest.raises(move.RefusedError, match="it draws no people"):
        move.promote(layout, again, who="schedule", why="passed")
    move.overrule(layout, again, who="Ada", why="it draws people")
    assert log.rolled_back(log.history(layout)) == {}


def test_going_back_to_what_is_damaged_or_was_never_there(layout: Layout) -> None:
    with pytest.raises(PromotionError, match="nothing was promoted"):
        move.roll_back(layout, "", who="me", why="because")
    first = promoted(layout).candidate.version
    with pytest.raises(PromotionError, match="no other version"):
        move.roll_back(layout, "", who="me", why="because")
    data_root.say(layout, note="another model")
    promoted(layout)
    (Path(versions.directory(layout, first)) / "dvae/final/config.json").write_text("{}")
    with pytest.raises(PromotionError, match=r"config\.json is not what was kept"):
        move.roll_back(layout, f"v={first}", who="me", why="because")
    with pytest.raises(PromotionError, match="v=nothing is not an earlier one"):
        move.roll_back(layout, "nothing", who="me", why="because")
    assert len(log.history(layout)) == 2


def test_what_changed_since_the_comparison_is_not_promoted(layout: Layout) -> None:
    found = compare(layout, LIMITS)
    data_root.spoil(layout, 0.2)
    with pytest.raises(PromotionError, match="changed since the model was compared"):
        move.promote(layout, found, who="me", why="passed")
    assert versions.kept(layout) == []
    promoted(layout)
    with pytest.raises(PromotionError, match="another model was promoted since"):
        move.promote(layout, found, who="me", why="passed")


def test_a_kill_at_any_moment_leaves_one_whole_promoted_model(layout: Layout) -> None:
    first = promoted(layout).candidate.version
    data_root.say(layout, note="another model")
    found = compare(layout, LIMITS)
    found.write(layout)
    kills, done = 0, None
    while done is None or done.returncode:
        program = [sys.executable, "-c", KILLED, layout.root, str(kills)]
        done = subprocess.run(program, env=tiny_training.environment(), check=False)
        assert done.returncode in (0, -9)
        kills += 1
        entry = log.current(layout)
        assert entry is not None
        versions.verify(layout, entry.model.version)
        assert entry.model.version in (first, found.candidate.version)
        if entry.model.version == first:
            assert done.returncode == -9
    assert kills > 5
    assert [e.model.version for e in log.history(layout)] == [first, found.candidate.version]
    assert list(Path(layout.promoted).glob(".v=*")) == []


def test_removal_spares_what_is_needed(layout: Layout) -> None:
    first = promoted(layout).candidate
    assert any(first.version in use.path and use.version == first.dataset for use in uses(layout))
    data_root.say(layout, note="began with the first", warm_start=first.dalle_sha256)
    second = promoted(layout).candidate
    for name, said in ((second.version, "is the promoted one"), (first.version, "began with")):
        status, output = command(layout, "remove", f"v={name}")
        assert (status, said in output) == (2, True)
    data_root.say(layout, note="began with nothing", warm_start="")
    promoted(layout)
    assert command(layout, "remove", f"v={first.version}")[0] == 0
    assert first.version not in versions.kept(layout)
    status, output = command(layout, "remove", "v=nothing")
    assert (status, "is no promoted version" in output) == (2, True)


def test_a_removal_that_was_killed_is_ended_by_the_next(layout: Layout) -> None:
    first = promoted(layout).candidate
    data_root.say(layout, note="another model")
    promoted(layout)
    place = Path(versions.directory(layout, first.version))
    (place / "_SUCCESS").unlink()
    assert f"v={first.version}" not in command(layout, "remove")[1]
    assert command(layout, "remove", f"v={first.version}")[0] == 0
    assert not place.exists()


def test_a_version_that_is_gone_back_to_while_it_is_removed_stays(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promoted(layout).candidate
    data_root.say(layout, note="another model")
    promoted(layout)
    entry = log.current(layout)
    remove_file = storage.remove

    def beside(url: str, *, recursive: bool = False) -> None:
        remove_file(url, recursive=recursive)
        if url.endswith("_SUCCESS"):  # another machine, which no lock keeps out
            log.append(layout, entry, log.Action.ROLLED_BACK, first, who="me", why="because")

    monkeypatch.setattr(storage, "remove", beside)
    with pytest.raises(PromotionError, match="was promoted at the same time; it stays"):
        versions.remove(layout, first.version)
    versions.verify(layout, first.version)


def test_comparing_by_hand_decides_no_promotion(layout: Layout) -> None:
    words = ("compare", "--margin", "5", "--least-perplexity", "1")
    assert command(layout, *words)[0] == 0
    with pytest.raises(PromotionError, match="compare the model first"):
        comparison.read(layout)
    assert command(layout, *words, "--record")[0] == 0
    assert comparison.read(layout).figures["margin"] == 5


def test_a_promoted_model_keeps_its_dataset(layout: Layout) -> None:
    dataset = promoted(layout).candidate.dataset
    storage.remove(layout.model("dalle"), recursive=True)
    storage.write_bytes(f"{layout.token_dataset}/CURRENT", b"v=newer\n")
    with pytest.raises(ValueError, match="models/promoted/v="):
        remove_dataset(layout, dataset)


def test_another_dvae_or_tokenizer_cannot_be_compared(layout: Layout) -> None:
    promoted(layout)
    entry = Path(layout.promoted, "000001.json")
    text = entry.read_text()
    for name, said in (("dvae_sha256", "another dVAE's"), ("tokenizer_sha256", "another token")):
        value = json.loads(text)
        value["model"] |= {name: "0" * 64}
        entry.write_text(json.dumps(value))
        assert said in compare(layout, LIMITS).problems[Check.NO_REGRESSION][0]


def test_the_command_says_what_is_promoted(layout: Layout) -> None:
    assert command(layout, "show") == (2, f"nothing was promoted below {layout.root} yet")
    assert command(layout, *PROMOTE)[0] == 0
    version = versions.kept(layout)[0]
    status, said = command(layout, "show")
    assert status == 0
    assert f"promoted  v={version}" in said
    assert "python -m training.sample --checkpoint" in said
    assert command(layout, "show", "--path")[1].strip() == versions.directory(layout, version)
    assert command(layout, "remove")[1] == f"v={version}  promoted\n"
    (Path(layout.promoted) / "000002.json").write_text("{}")
    status, said = command(layout, "show")
    assert (status, "is no entry of the log" in said) == (2, True)
