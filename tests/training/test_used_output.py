"""A directory that was drawn into before, or that cannot be written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_training
from s3_server import BUCKET, s3_server
from tiny_training import Finished

from pipelines import storage
from training import outputs, remote, sample
from training.alone import only_program
from training.drawing import captions, sampling
from training.errors import InputError

Draw = Callable[..., None]


@pytest.fixture
def draw(finished: Finished, tiny_recipe: str) -> Draw:
    def start(out: Path, *texts: str, **options: object) -> None:
        given = {"caption": list(texts), "limit": 2, "candidates": 2, **options}
        sample.sample(finished.dalle, out, finished.dvae, finished.dataset, **given)  # type: ignore[arg-type]

    return start


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


def fail(*_: object, **__: object) -> None:
    raise InterruptedError


def test_only_the_last_runs_pictures_are_left(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path, "a cat", "a dog", "a cow", best=2, partial=True)
    draw(tmp_path)
    theirs = {"caption-00/best-friend.png", "caption-01/notes.txt", "notes.txt"}
    for name in theirs:
        (tmp_path / name).touch()
    draw(tmp_path, "a red heart")
    drawn = {f"caption-00/{name}" for name in ("best-00.png", "sheet.png", "samples.json")}
    sheet = {"samples.json", "samples.png"}
    assert files(tmp_path) == {"caption-00", "caption-01", *drawn, *sheet, *theirs}
    told = json.loads((tmp_path / "caption-00/samples.json").read_text())
    assert told["caption"] == "a red heart"


def test_two_at_once_do_not_mix_their_pictures(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path, "a cat")
    before = files(tmp_path)
    with only_program(tmp_path), pytest.raises(InputError, match="another program writes"):
        draw(tmp_path, "a dog")
    assert files(tmp_path) == before
    draw(tmp_path, "a dog")


def test_nothing_says_of_torn_pictures_that_they_are_whole(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, "a cat", best=2)
    draw(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(captions, "contact_sheet", fail)
        patch.setattr(sample, "contact_sheet", fail)
        for texts in ((), ("a red heart",)):
            with pytest.raises(InterruptedError):
                draw(tmp_path, *texts)
    assert files(tmp_path) == {"caption-00", "caption-00/best-00.png"}
    # What is refused leaves all as it was.
    with pytest.raises(InputError, match="the best 3 of 2 candidates cannot be chosen"):
        draw(tmp_path, "a cat", best=3)
    assert (tmp_path / "caption-00/best-00.png").exists()


def test_the_marker_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "caption-00"
    folder.mkdir()
    for name in ("best-00.png", "samples.json"):
        (folder / name).touch()
    folder.joinpath("zzz").mkdir()
    removed: list[str] = []
    fs, _ = storage.filesystem(str(tmp_path))
    monkeypatch.setattr(type(fs), "rm", lambda _, path: removed.append(Path(path).name))
    outputs.clear(tmp_path, captions.FILES, captions.FACTS)
    assert removed == ["samples.json", "best-00.png"]


def test_the_stores_copy_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_MODEL_CACHE", str(tmp_path / "cache"))
    with s3_server(tmp_path / "log"):
        url = f"s3://{BUCKET}/drawn"
        out = remote.local(url)
        for name in ("caption-01/best-01.png", "caption-01/samples.json", "caption-01/notes.txt"):
            storage.write_bytes(f"{url}/{name}", b"of another machine")
        (out / "caption-00").mkdir(parents=True)
        for name in ("sheet.png", "samples.json"):
            (out / "caption-00" / name).touch()
        outputs.clear(out, captions.FILES, captions.FACTS)
        assert storage.tree(url).keys() == {"caption-01/notes.txt"}
        assert not list(out.iterdir())
        # Uploaded again, the marker comes last.
        order: list[str] = []
        (out / "caption-00").mkdir()
        for name in ("sheet.png", "samples.json"):
            (out / "caption-00" / name).touch()
        monkeypatch.setattr(remote, "_put", lambda path, _: order.append(path.name))
        remote.push_files(out)
    assert order == ["sheet.png", "samples.json"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc"])
@pytest.mark.parametrize("module", ["sample", "evaluate", "human_evaluation"])
def test_an_output_that_cannot_be_written_shows_before_the_work(
    run: tiny_training.Runner,
    finished: Finished,
    tiny_recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    place: str,
) -> None:
    (tmp_path / "file").touch()
    # Not even root makes files in /proc.
    output = tmp_path / place
    listing = tmp_path / "pictures.jsonl"
    listing.write_text(json.dumps({"caption": "a", "file": "file"}))
    models = ("--dvae", finished.dvae, "--dataset", finished.dataset)
    arguments = {
        "sample": ("--checkpoint", finished.dalle, *models, "--out", output),
        "evaluate": ("--dalle", finished.dalle, *models, "--output", output),
        "human_evaluation": ("page", tmp_path, tmp_path, "--output", output / "page.html"),
    }
    monkeypatch.setattr(sampling, "sample_codes", fail)
    monkeypatch.setattr("training.human.page.render", fail)
    monkeypatch.setattr("training.metrics.likelihoods.measure", fail)
    status, errors = run(f"training.{module}", *arguments[module])
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: [Errno ")
    assert str(output) in errors
