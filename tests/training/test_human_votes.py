import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import InputError
from training.human.page import pairs, read_pictures, render
from training.human.votes import Votes, agreement, preferences, read_votes


def votes(worker: str, choices: dict[str, str], page: str = "p") -> Votes:
    return Votes(page, worker, {k: {"realism": c, "match": c} for k, c in choices.items()})


def five(firsts: list[int]) -> list[Votes]:
    """Five people; the first model gets so many of their votes for each pair."""
    return [
        votes(f"w{i}", {f"pair{n}": "first" if i < k else "second" for n, k in enumerate(firsts)})
        for i in range(5)
    ]


def test_the_majority_of_five_counts() -> None:
    found = preferences(five([5, 3, 2, 0]))
    assert [(p.question, p.won, p.pairs) for p in found] == [("realism", 2, 4), ("match", 2, 4)]
    assert found[0].share == 0.5
    assert found[0].unanimous == 0.5
    assert found[0].p_value == pytest.approx(1.0)


def test_the_interval_is_wilsons() -> None:
    # 90 of 100 at 95 %: Wilson's interval by hand.
    z, n, p = 1.959963984540054, 100, 0.9
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    found = preferences(five([5] * 90 + [0] * 10))[0]
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert found.p_value < 1e-15


def test_pairs_with_too_few_votes_do_not_count() -> None:
    said = five([5, 5])
    said[4] = votes("w4", {"pair0": "second"})
    assert preferences(said)[0].pairs == 1
    with pytest.raises(InputError, match="no pair has 7 votes, the most is 5"):
        preferences(said, 7)
    with pytest.raises(InputError, match="odd number"):
        preferences(said, 4)


def test_other_pages_and_doubled_people_are_refused() -> None:
    with pytest.raises(InputError, match="2 different pages"):
        preferences([votes("a", {"x": "first"}), votes("b", {"x": "first"}, page="q")], 1)
    with pytest.raises(InputError, match="'a' voted in two files"):
        preferences([votes("a", {"x": "first"}), votes("a", {"x": "second"})], 1)
    with pytest.raises(InputError, match="no file"):
        preferences([], 1)


@pytest.mark.parametrize("name", ["BOB", " bob", "bob\n"])
def test_a_name_typed_otherwise_is_the_same_person(name: str) -> None:
    with pytest.raises(InputError, match="'bob' voted in two files"):
        preferences([votes("Bob", {"x": "first"}), votes(name, {"x": "first"})], 1)


def test_which_surplus_votes_count_does_not_depend_on_the_order_of_files() -> None:
    pairs_of = [f"pair{n}" for n in range(40)]
    said = [
        votes(name, dict.fromkeys(pairs_of, choice))
        for name, choice in (("a", "first"), ("b", "second"), ("c", "first"), ("d", "second"))
    ]
    found = [preferences(order, 3) for order in itertools.permutations(said)]
    assert all(one == found[0] for one in found)
    # Nobody is left out of every pair: each model has a majority of some.
    assert 0 < found[0][0].won < 40


def test_who_disagrees_is_seen() -> None:
    said = five([5, 5, 5, 5])
    said[0] = votes("w0", dict.fromkeys(["pair0", "pair1", "pair2", "pair3"], "second"))
    found = agreement(said)
    assert found["w0"] == 0.0
    assert found["w1"] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        '{"page": "p", "worker": "w"}',
        '{"page": "p", "worker": "w", "votes": [{"id": "x", "realism": "left", "match": "first"}]}',
        '{"page": "p", "worker": " ", "votes": []}',
        '{"page": "p", "worker": null, "votes": []}',
        json.dumps(
            {
                "page": "p",
                "worker": "w",
                "votes": [{"id": "x", "realism": c, "match": c} for c in ("first", "second")],
            }
        ),
        "[]",
        "[" * 100_000,
    ],
    ids=range(8),
)
def test_a_file_that_is_no_votes_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "votes.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path} is not a file of votes"):
        read_votes(path)


def test_bad_listings_are_one_sentence(tmp_path: Path) -> None:
    listing = tmp_path / "pictures.jsonl"
    with pytest.raises(InputError, match="cannot be read"):
        read_pictures(listing)
    listing.write_text('{"caption": "a"}')
    with pytest.raises(InputError, match="expected JSON lines with caption and file"):
        read_pictures(listing)
    listing.write_text(json.dumps({"caption": "a", "file": "gone.png"}))
    with pytest.raises(InputError, match=r"line 1: .*gone\.png is not there"):
        read_pictures(listing)
    (tmp_path / "gone.png").write_text("no picture")
    with pytest.raises(InputError, match="is not a picture"):
        render(pairs(listing, listing, 5), "title")
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"caption": "b", "file": "gone.png"}))
    with pytest.raises(InputError, match="no caption in common"):
        pairs(listing, other, 5)


def test_the_command_says_what_it_wants() -> None:
    program = [sys.executable, "-m", "training.human_evaluation"]
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
    assert "page" in done.stdout
    assert "result" in done.stdout
    failed = subprocess.run([*program, "result", "/no/votes"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: /no/votes is not a file of votes")
