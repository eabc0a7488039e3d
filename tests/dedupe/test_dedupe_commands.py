import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, row

from pipelines import schemas
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

NAMES = ("snail", "guitar", "dragon")


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_an_index_is_built_and_a_batch_is_deduplicated_without_dagster(tmp_path: Path) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(artwork()[name])
    layout = Layout(str(tmp_path / "data"))
    copy = row(1, "a snail that was copied", encoded(on_white(artwork()["snail"]), "JPEG"))
    own = row(2, "a camel that is our own", artwork()["camel"])
    fetched_pairs(layout, "a", [copy, own])
    config = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
    curate_pairs("a", layout, config, Engine())

    index = tmp_path / "index"
    built = run("pipelines.dedupe.reference_index", folder, "--output", index, "--measured", 2)
    assert built.returncode == 0, built.stderr
    assert "mirror" in built.stdout
    assert "flagged of other references: 0 of 3" in built.stdout
    assert "hashes in" in built.stdout

    out = tmp_path / "out"
    command = [layout.dataset("curated_pairs", "a"), "--index", index, "--output", out]
    config = tmp_path / "dedupe.json"
    config.write_text('{"mode": "report", "min_contrast": 3.5, "repeat_radius": 3}')
    done = run("pipelines.dedupe", *command, "--config", config, "--confirm", 50)
    assert done.returncode == 0, done.stderr
    assert "1 reference images are overlapped with" in done.stdout
    table = pq.read_table(out / "part-00000.parquet")
    assert schemas.violations(schemas.DEDUPED_PAIRS, table.schema) == []
    assert set(table.column("dup_of").to_pylist()) == {"snail.png", None}
    recipe = json.loads((table.schema.metadata or {})[b"config"])
    told = [recipe[name] for name in ("mode", "min_contrast", "repeat_radius", "confirm")]
    assert told == ["report", 3.5, 3, 50]
    overlap = pq.read_table(out / "_overlap" / "overlapping_references.parquet")
    assert overlap.column("reference").to_pylist() == ["snail.png"]

    again = run("pipelines.dedupe", *command)
    assert again.returncode == 0, again.stderr
    assert "reference_copy" in again.stdout
    assert pq.read_table(out / "part-00000.parquet").column("uid").to_pylist() == [own["uid"]]
    assert pq.read_table(out / "_rejects" / "part-00000.parquet").num_rows == 1


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        ("pipelines.dedupe.reference_index", ("nowhere", "--output", "x"), "give the folder of"),
        ("pipelines.dedupe.reference_index", ("x", "--output", "x", "--crops", "a"), "3,6,10"),
        (
            "pipelines.dedupe.reference_index",
            ("x", "--output", "y", "--config", "nowhere"),
            "write DedupeConfig's fields into it",
        ),
        (
            "pipelines.dedupe",
            ("nowhere", "--index", "x", "--output", "y"),
            "pipelines.curate FETCHED",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, module: str, arguments: tuple[str, ...], told: str
) -> None:
    places = ("x", "y", "nowhere")
    done = run(module, *(str(tmp_path / a) if a in places else a for a in arguments))
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
