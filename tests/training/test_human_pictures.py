"""Two models are evaluated, people compare their pictures, and their votes are counted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser
from PIL import Image
from reference_layouts import write_coco
from tiny_training import Finished
from typer.testing import CliRunner

from training import cli, evaluate, train_dalle
from training.errors import InputError
from training.human import pictures
from training.human.page import LISTING, read_pictures

JUDGED, CAPTIONS = 3, 5


def command(*words: object) -> str:
    program = [sys.executable, "-m", "training.human_evaluation", *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_two_models_to_what_people_prefer(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    train_dalle.train(tiny_recipe, finished.dataset, tmp_path / "dalle", updates=5)
    write_coco(tmp_path / "coco", CAPTIONS)
    found = []
    for model in (finished.dalle, tmp_path / "dalle"):
        output = tmp_path / f"evaluation-{len(found)}"
        evaluate.evaluate(
            model, finished.dvae, finished.dataset, output,
            pictures=2, coco=tmp_path / "coco", coco_captions=CAPTIONS, human=JUDGED,
        )  # fmt: skip
        found.append(output / "human")
    first, second = (read_pictures(directory / LISTING) for directory in found)
    assert list(first) == list(second)
    assert len(first) == JUDGED
    assert [p.read_bytes() for p in first.values()] != [p.read_bytes() for p in second.values()]

    page, votes = tmp_path / "page.html", tmp_path / "votes.json"
    assert command("page", *found, "--output", page) == f"{page}: {JUDGED} pairs\n"
    with browser() as opened:
        tab = opened.new_context(accept_downloads=True).new_page()
        tab.goto(f"file://{page}")
        tab.fill("#worker", "ann")
        seen = set()
        for _ in range(JUDGED):
            seen.add(tab.inner_text("#caption"))
            for question in ("realism", "match"):
                tab.click(f"[data-question={question}] [data-side=left]")
            tab.click("#next")
        assert seen == set(first)
        with tab.expect_download() as saved:
            tab.click("#save")
        saved.value.save_as(votes)
    lines = command("result", votes, "--needed", 1).splitlines()
    assert f"of {JUDGED} pairs" in lines[0]
    assert f"of {JUDGED} pairs" in lines[1]


def test_a_rerun_leaves_what_it_is_asked_for(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    models = (finished.dalle, finished.dvae, finished.dataset, tmp_path)
    contents = []
    for count in (4, 4, 2, 100):
        evaluate.evaluate(*models, pictures=6, human=count)
        files = sorted((tmp_path / "human").iterdir())
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4 + 1
    # The first ones again, and no others; then all that there are.
    assert contents[2].keys() == {"00000.png", "00001.png", LISTING}
    assert contents[2].items() - contents[0].items() == {(LISTING, contents[2][LISTING])}
    assert len(read_pictures(tmp_path / "human" / LISTING)) == 6
    assert not list(tmp_path.glob(".human*"))


def test_pictures_of_a_killed_program_are_not_listed(tmp_path: Path) -> None:
    directory = tmp_path / "human"
    batch = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    pictures.write(directory, ["a", "b"], [batch])
    before = (directory / LISTING).read_bytes()
    with pytest.raises(ValueError, match="zip"):
        pictures.write(directory, ["c", "d", "e"], [batch])
    assert (directory / LISTING).read_bytes() == before
    # Line separators of Unicode are no ends of lines in the listing.
    pictures.write(directory, ["c\u2028d", '"e"'], iter(batch.split(1)))
    assert list(read_pictures(directory / LISTING)) == ["c\u2028d", '"e"']
    shown = np.asarray(Image.open(directory / "00001.png"))
    assert np.array_equal(shown, batch[1].permute(1, 2, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["human"]


def test_without_captions_there_is_nothing_to_judge(
    finished: Finished, tiny_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = cli.new_app()
    app.command()(evaluate.evaluate)
    models = [w for name in ("dalle", "dvae", "dataset", "output") for w in (f"--{name}", "none")]
    assert CliRunner().invoke(app, [*models, "--human", "0"]).exit_code == 2
    unseen = evaluate._unseen
    monkeypatch.setattr(evaluate, "_unseen", lambda *given: unseen(*given[:-1], 1))
    with pytest.raises(InputError, match="people could judge; give --coco, or leave --human"):
        evaluate.evaluate(finished.dalle, finished.dvae, finished.dataset, tmp_path / "o", human=3)
    assert not (tmp_path / "o").exists()
