import json
import subprocess
import sys
from pathlib import Path

import pytest
from browser import browser
from PIL import Image
from playwright.sync_api import Page

CAPTIONS = ["a red heart", "a <b>bold</b> & 'quoted' caption", "ein Haus, 猫"]


def samples(root: Path, name: str, colour: tuple[int, int, int]) -> Path:
    directory = root / name
    directory.mkdir()
    lines = []
    for i, caption in enumerate(CAPTIONS):
        Image.new("RGB", (32, 32), (*colour[:2], 10 * i)).save(directory / f"{i}.png")
        lines.append(json.dumps({"caption": caption, "file": f"{i}.png"}))
    (directory / "pictures.jsonl").write_text("\n".join(lines))
    return directory


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "training.human_evaluation", *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def colour(page: Page, side: str) -> tuple[int, int]:
    """Red and green of a shown picture, which tell the model."""
    script = """async image => {
        await image.decode();
        const canvas = document.createElement('canvas'), drawn = canvas.getContext('2d');
        drawn.drawImage(image, 0, 0);
        return [...drawn.getImageData(0, 0, 1, 1).data];
    }"""
    red, green, *_ = page.eval_on_selector(f"#{side}", script)
    return red, green


def vote(page: Page, question: str, red: bool) -> None:
    """Choose the picture of the red model, wherever it is, or the other one."""
    side = "left" if (colour(page, "left")[0] == 200) == red else "right"
    page.click(f"[data-question={question}] [data-side={side}]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("human")
    first, second = samples(root, "first", (200, 0, 0)), samples(root, "second", (0, 200, 0))
    done = command("page", first, second, "--output", root / "page.html", "--title", "Red or green")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{root / 'page.html'}: 3 pairs\n"
    return root


def test_people_vote_and_the_votes_are_counted(made: Path) -> None:
    files, orders = [], set()
    with browser() as opened:
        for worker in ("ann", "bob", "cem", "dua", "eve"):
            page = opened.new_context(accept_downloads=True).new_page()
            problems: list[str] = []
            page.on("pageerror", lambda error, found=problems: found.append(str(error)))
            page.on(
                "request",
                lambda request, found=problems: (
                    None
                    if request.url.startswith(("file:", "data:", "blob:"))
                    else found.append(request.url)
                ),
            )
            page.goto(f"file://{made}/page.html")
            page.fill("#worker", worker)
            seen = []
            for i in range(3):
                assert page.inner_text("#count") == f"{i} of 3 answered"
                assert page.is_disabled("#next")
                seen.append((page.inner_text("#caption"), colour(page, "left")[0] == 200))
                vote(page, "realism", red=True)
                if i == 0 and worker == "ann":
                    page.screenshot(path=str(made / "page.png"))
                # Eve alone thinks that green pictures fit better.
                vote(page, "match", red=worker != "eve")
                page.click("#next")
            assert page.is_visible("#done")
            assert sorted(caption for caption, _ in seen) == sorted(CAPTIONS)
            orders.add(tuple(seen))
            with page.expect_download() as saved:
                page.click("#save")
            assert saved.value.suggested_filename == f"votes-{worker}.json"
            files.append(made / f"{worker}.json")
            saved.value.save_as(files[-1])
            assert problems == []
    assert len(orders) > 1  # 48 orders and sides are possible
    done = command("result", *files)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("realism  first model preferred in 3 of 3 pairs: 100.0% [43.9%, 100")
    assert lines[0].endswith("all 5 agreed in 100.0%")
    assert lines[1].startswith("match    first model preferred in 3 of 3 pairs: 100.0%")
    assert lines[1].endswith("all 5 agreed in 0.0%")
    assert "eve agrees with the others' majority in 50.0% of answers; that is close" in lines[-1]


def test_answers_survive_a_reload(made: Path) -> None:
    with browser() as opened:
        page = opened.new_page()
        page.goto(f"file://{made}/page.html")
        vote(page, "realism", red=True)
        vote(page, "match", red=False)
        caption = page.inner_text("#caption")
        page.reload()
        assert page.inner_text("#count") == "1 of 3 answered"
        assert page.inner_text("#caption") != caption
        page.click("#back")
        assert page.inner_text("#caption") == caption
        pressed = page.query_selector_all("[aria-pressed=true]")
        assert len(pressed) == 2
