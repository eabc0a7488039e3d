import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fetched_corpus import artwork, fetched_pairs, read_all, row

from pipelines import progress
from pipelines.config_files import configured, read_config
from pipelines.curate.config import CurateConfig
from pipelines.dedupe.config import DedupeConfig, Mode
from pipelines.layout import Layout


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> str:
    layout = Layout(str(tmp_path_factory.mktemp("command")))
    names = sorted(artwork())[::200]
    rows = [row(n, f"{name} as an emoji", artwork()[name]) for n, name in enumerate(names)]
    fetched_pairs(layout, "a", rows[::2], [*rows[1::2], row(999, "x", artwork()["rocket"])])
    return layout.dataset("fetched_pairs", "a")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.curate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_writes_what_the_stage_writes(
    fetched: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "curate.json"
    config.write_text(json.dumps({"min_side": 999, "min_bytes": 100, "formats": ["PNG"]}))
    output = tmp_path / "out"
    found = run(fetched, "--output", str(output), "--config", str(config), "--min-side", "32")
    assert found.returncode == 0, found.stderr
    table, rejects = read_all(str(output)), read_all(str(output / "_rejects"))
    assert f"{table.num_rows} pairs in {output}" in found.stdout
    assert rejects.column("reason").to_pylist() == ["caption_too_short"]
    lines = {line.split()[0]: line.split()[1] for line in found.stdout.splitlines()}
    assert lines["in"] == str(table.num_rows + 1)
    assert (lines["kept"], lines["caption_too_short"]) == (str(table.num_rows), "1")
    stored = json.loads((table.schema.metadata or {})[b"config"])
    assert (stored["min_side"], stored["min_bytes"], stored["formats"]) == (32, 100, ["PNG"])
    assert (output / "_SUCCESS").exists()
    with progress.watch(partial(progress.rows_done, str(output)), "rows", 100):
        pass
    assert f"{table.num_rows + 1}/100" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "--output", "x"), "first run python -m pipelines.crawl.fetch"),
        (("FETCHED", "--output", "x", "--short-side", "2"), "--short-side must be at least 8"),
        (("FETCHED", "--output", "x", "--config", "none.json"), "none.json"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    fetched: str, arguments: tuple[str, ...], message: str
) -> None:
    found = run(*(fetched if a == "FETCHED" else a for a in arguments))
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "JSON object"),
        ({"min_sides": 3}, "names min_sides"),
        ({"min_side": "3"}, "min_side is '3', which is not a whole number"),
        ({"min_side": True}, "not a whole number"),
        ({"max_aspect": "wide"}, "not a number"),
        ({"formats": "PNG"}, "not a list of texts"),
        ({"encoding": "gif"}, "not one of png, jpeg, webp"),
        ({"drop_boilerplate": 0}, "not true or false"),
    ],
)
def test_a_wrong_configuration_file_is_refused(value: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "curate.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        read_config(str(path), CurateConfig)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mode": "keep"}, "mode is 'keep', which is not one of drop, flag, report"),
        ({"crops": [3, "6"]}, "not a list of whole numbers"),
        ({"radius": 65}, "curate.json: radius must be 0 to 64 bits"),
        ({"confirms": 4}, "names confirms, which is not one of mode, radius, confirm"),
    ],
)
def test_a_wrong_recipe_of_the_deduplication_is_refused(
    value: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "curate.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        configured(DedupeConfig(), str(path), {})


def test_a_file_goes_over_the_recipe_and_options_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dedupe.json"
    path.write_text(json.dumps({"mode": "report", "radius": 7, "crops": [4], "min_contrast": 3}))
    found = configured(DedupeConfig(repeat_colour=2), str(path), {"radius": 8, "cuts": None})
    expected = DedupeConfig(Mode.REPORT, radius=8, crops=(4,), min_contrast=3.0, repeat_colour=2)
    assert found == expected
    assert isinstance(found.mode, Mode)
    assert isinstance(found.min_contrast, float)
    with pytest.raises(ValueError, match="and the options: --radius must be"):
        configured(DedupeConfig(), str(path), {"radius": 65})
    with pytest.raises(FileNotFoundError, match=r"there is no .*; write DedupeConfig's"):
        configured(DedupeConfig(), str(tmp_path / "nothing.json"), {})
