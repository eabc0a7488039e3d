import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import shard_stages
from shard_stages import ROWS, SCHEMA, SHARDS, Counting, LoseARow, stage, write_input

from pipelines import ledger, parquet, schemas, storage
from pipelines.layout import Layout, join
from pipelines.ledger import LedgerError
from pipelines.runners import Engine

DROPPED = len(range(0, SHARDS * ROWS, 7))


def files(layout: Layout) -> dict[str, bytes]:
    root = Path(layout.root)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    return write_input(str(tmp_path / "input"))


def test_every_row_has_one_outcome(tmp_path: Path, shards: list[str]) -> None:
    layout = Layout(str(tmp_path / "data"))
    done = stage(layout).run(shards, Engine(), colour="blue")
    assert done.funnel.rows_in == SHARDS * ROWS
    assert done.funnel.dropped == {"too_short": DROPPED}
    assert done.rows == done.funnel.kept == SHARDS * ROWS - DROPPED
    assert done.details == {"colour": "blue"}
    assert ledger.read_success(stage(layout).output) == done

    parts = storage.list_files(stage(layout).output, ".parquet")
    assert len(parts) == SHARDS
    kept = [uid for part in parts for uid in pq.ParquetFile(part).read(["uid"])["uid"].to_pylist()]
    rejects = storage.list_files(stage(layout).rejects, ".parquet")
    dropped = [row for part in rejects for row in pq.ParquetFile(part).read().to_pylist()]
    inputs = [uid for s in shards for uid in pq.ParquetFile(s).read(["uid"])["uid"].to_pylist()]
    gone = {row["uid"] for row in dropped}
    assert kept == [uid for uid in inputs if uid not in gone]
    assert {(row["stage"], row["reason"]) for row in dropped} == {("encode", "too_short")}
    assert all(schemas.violations(SCHEMA, parquet.read_schema(part)) == [] for part in parts)


def test_finished_work_is_not_done_again(
    tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(str(tmp_path / "data"))
    first = stage(layout).run(shards, Engine())
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("SEEN", str(seen))
    assert stage(layout, Counting).run(shards, Engine()) == first
    assert not list(seen.iterdir())
    assert stage(layout, Counting, config="y").run(shards, Engine()).content == first.content
    assert len(list(seen.iterdir())) == SHARDS * -(-ROWS // 16)


def test_a_killed_run_resumes_to_the_same_bytes(
    tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = Layout(str(tmp_path / "whole")), Layout(str(tmp_path / "cut"))
    stage(whole).run(shards, Engine())
    receipts = join(stage(cut).output, "_receipts")
    script = (
        "from shard_stages import *; from pipelines.runners import Engine;"
        f"stage(Layout({cut.root!r}), KillAfterTwoShards).run({shards!r}, Engine())"
    )
    path = os.pathsep.join([str(Path(shard_stages.__file__).parent), os.getcwd()])
    environment = os.environ | {"RECEIPTS": receipts, "PYTHONPATH": path}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(storage.list_files(receipts, ".json")) == 2
    assert ledger.read_success(stage(cut).output) is None
    assert len(storage.list_files(stage(cut).output, ".parquet")) == 2

    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("SEEN", str(seen))
    stage(cut, Counting).run(shards, Engine())
    assert len(list(seen.iterdir())) == (SHARDS - 2) * -(-ROWS // 16)
    leftover = {name for name in files(cut) if name.endswith(".tmp")}
    assert {n: d for n, d in files(cut).items() if n not in leftover} == files(whole)
    assert not [name for name in leftover if name.endswith(".parquet")]


def test_fewer_shards_leave_nothing_of_the_others(tmp_path: Path, shards: list[str]) -> None:
    layout = Layout(str(tmp_path / "data"))
    all_shards = stage(layout).run(shards, Engine())
    fewer = stage(layout, config="y").run(shards[:2], Engine())
    assert fewer.funnel.rows_in == 2 * ROWS
    assert len(storage.list_files(stage(layout).output, ".parquet")) == 2
    assert len(storage.list_files(stage(layout).rejects, ".parquet")) == 2
    assert stage(layout).run(shards, Engine()) == all_shards
    assert len(storage.list_files(stage(layout).output, ".parquet")) == SHARDS


def test_an_old_receipt_does_not_vouch_for_new_bytes(tmp_path: Path, shards: list[str]) -> None:
    layout = Layout(str(tmp_path / "data"))
    first = stage(layout).run(shards[:1], Engine())
    other = dataclasses.replace(stage(layout, config="y"), processor=LoseARow)
    with pytest.raises(Exception, match="rows in, but"):
        other.run(shards[:1], Engine())
    # The failed run wrote no part, and the first one's receipt is gone: it is done again.
    assert stage(layout).run(shards[:1], Engine()) == first


def test_a_lost_row_is_an_error(tmp_path: Path, shards: list[str]) -> None:
    layout = Layout(str(tmp_path / "data"))
    with pytest.raises(Exception, match=r"16 rows in, but \d+ kept \+ \d+ dropped") as caught:
        stage(layout, LoseARow).run(shards, Engine())
    assert LedgerError.__name__ in repr(caught.value)
    assert ledger.read_success(stage(layout).output) is None
    assert storage.list_files(stage(layout).output, ".parquet") == []


def test_a_stage_survives_pickling_with_its_schema(tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(stage(Layout(str(tmp_path)))))
    assert found == stage(Layout(str(tmp_path)))
    assert schemas.violations(SCHEMA, found.schema) == []
    assert found.schema.metadata == SCHEMA.metadata


def test_a_dask_cluster_gives_the_same_bytes(tmp_path: Path, shards: list[str]) -> None:
    from distributed import LocalCluster

    here, there = Layout(str(tmp_path / "here")), Layout(str(tmp_path / "there"))
    stage(here).run(shards, Engine())
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        stage(there).run(shards, Engine("DaskRunner", (address,)))
    assert files(there) == files(here)


def test_a_part_that_is_gone_is_made_again(
    tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(str(tmp_path / "data"))
    first = stage(layout).run(shards, Engine())
    before = files(layout)
    parts = storage.list_files(stage(layout).output, ".parquet")
    Path(parts[1]).unlink()
    Path(parts[2]).write_bytes(Path(parts[2]).read_bytes()[:100])
    with pytest.raises(FileNotFoundError, match="lacks parts"):
        ledger.require_parts(stage(layout).output)
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("SEEN", str(seen))
    assert stage(layout, Counting).run(shards, Engine()) == first
    assert len(list(seen.iterdir())) == 2 * -(-ROWS // 16)
    assert files(layout) == before


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b"null"])
def test_a_damaged_receipt_is_none(tmp_path: Path, shards: list[str], damaged: bytes) -> None:
    layout = Layout(str(tmp_path / "data"))
    first = stage(layout).run(shards, Engine())
    receipts = storage.list_files(join(stage(layout).output, "_receipts"), ".json")
    Path(receipts[0]).write_bytes(damaged)
    storage.remove(join(stage(layout).output, ledger.SUCCESS))
    assert stage(layout).run(shards, Engine()) == first


def test_nothing_of_another_is_written_over(tmp_path: Path, shards: list[str]) -> None:
    layout = Layout(str(tmp_path / "data"))
    place = Path(stage(layout).output)
    place.mkdir(parents=True)
    for name in ("sales.parquet", "part-00000.parquet"):
        pq.write_table(pq.read_table(shards[0]).replace_schema_metadata(), place / name)
        before = files(layout)
        with pytest.raises(ValueError, match="choose another place"):
            stage(layout).run(shards, Engine())
        assert files(layout) == before
        (place / name).unlink()
    stage(layout).run(shards, Engine())
    other = dataclasses.replace(stage(layout), dataset="other")
    with pytest.raises(ValueError, match=f"holds {stage(layout).dataset}"):
        other.run(shards, Engine())
