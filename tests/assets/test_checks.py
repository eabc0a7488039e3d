"""The generated checks find what they are for."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from token_corpus import pair

from assets.lib.contract_checks import rows_check
from assets.lib.partitions import crawl_batches
from assets.lib.settings import Settings
from pipelines import ledger, parquet, schemas
from pipelines.contract import contract_problems, ledger_problems
from pipelines.ledger import Finished, Funnel
from pipelines.shards import rejected

ROWS = pa.RecordBatch.from_pylist(
    [
        {"reference": f"r{i}", "variant": "full", "phash64": bytes(8), "phash256": bytes(32)}
        for i in range(3)
    ],
    schema=schemas.COCO_HASH_INDEX,
)


def _finish(directory: Path, rows: int, funnel: Funnel) -> str:
    finished = Finished("coco_hash_index", "f", "c", rows, 1, funnel)
    ledger.write_success(str(directory), finished)
    return str(directory)


def test_a_sound_dataset_has_no_problems(tmp_path: Path) -> None:
    parquet.write(str(tmp_path / "part-00000.parquet"), [ROWS], schemas.COCO_HASH_INDEX)
    directory = _finish(tmp_path, 3, Funnel(3, 3))
    assert contract_problems(directory, schemas.COCO_HASH_INDEX) == []
    assert ledger_problems(directory, str(tmp_path / "rejects"), 3) == []


def test_unfinished(tmp_path: Path) -> None:
    assert "_SUCCESS" in contract_problems(str(tmp_path), schemas.COCO_HASH_INDEX)[0]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (schemas.COCO_HASH_INDEX.remove(1), "missing column 'variant'"),
        (schemas.COCO_HASH_INDEX.append(pa.field("extra", pa.int8())), "unknown column 'extra'"),
    ],
)
def test_wrong_columns(tmp_path: Path, schema: pa.Schema, said: str) -> None:
    table = pa.table({f.name: pa.nulls(3, f.type) for f in schema})
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "part-00000.parquet")
    directory = _finish(tmp_path, 3, Funnel(3, 3))
    assert any(said in p for p in contract_problems(directory, schemas.COCO_HASH_INDEX))


def test_lost_rows(tmp_path: Path) -> None:
    parquet.write(str(tmp_path / "part-00000.parquet"), [ROWS], schemas.COCO_HASH_INDEX)
    directory = _finish(tmp_path, 4, Funnel(4, 4))
    assert "holds 3 rows, its marker says 4" in "".join(
        contract_problems(directory, schemas.COCO_HASH_INDEX)
    )


def test_the_ledger_looks_at_the_rejects_and_at_the_stage_before(tmp_path: Path) -> None:
    directory = _finish(tmp_path / "data", 3, Funnel(5, 3, {"too_small": 2}))
    rejects = tmp_path / "rejects"
    assert "2 dropped by the ledger, 0 rows" in ledger_problems(directory, str(rejects), 5)[0]
    uids = pa.record_batch({"uid": pa.array([bytes(16)] * 2, pa.binary(16))})
    rows = rejected(uids, schemas.Stage.CURATE, ["too_small"] * 2)
    parquet.write(str(rejects / "part-00000.parquet"), [rows], schemas.REJECTS)
    assert ledger_problems(directory, str(rejects), 5) == []
    assert "6 rows left the stage before" in ledger_problems(directory, str(rejects), 6)[0]


def test_a_failing_row_check_blocks_and_names_the_rows(tmp_path: Path) -> None:
    rows = [pair(1), pair(2), pair(1), {**pair(3), "caption": " "}]
    table = pa.Table.from_pylist(rows, schema=schemas.DEDUPED_PAIRS)
    settings = Settings(data_root=str(tmp_path), recipe="demo", reference_images="/", processes=1)
    part = f"{settings.layout.dataset('deduped_pairs', 'a')}/part-00000.parquet"
    parquet.write(part, table.to_batches(), schemas.DEDUPED_PAIRS)

    @dg.asset(partitions_def=crawl_batches)
    def deduped_pairs() -> None:
        """Stands for the stage that wrote the rows."""

    @dg.asset(partitions_def=crawl_batches, deps=[deduped_pairs])
    def later() -> None:
        """Must not run."""

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("crawl_batch", ["a"])
        done = dg.materialize(
            [deduped_pairs, later, rows_check("deduped_pairs").asset_check()],
            instance=instance,
            partition_key="a",
            resources={"settings": settings},
            raise_on_error=False,
        )
    (found,) = done.get_asset_check_evaluations()
    assert (found.passed, found.blocking) == (False, True)
    assert done.asset_materializations_for_node("later") == []
    assert found.metadata["problems"].value == 2
    offenders = [dict(record.data) for record in found.metadata["offending rows"].records]
    assert [(row["row"], row["problem"]) for row in offenders] == [
        (3, "the caption is empty"),
        (2, "uid seen before"),
    ]
    assert all(row["batch"] == "a" and row["file"] == "part-00000.parquet" for row in offenders)
    assert {row["uid"] for row in offenders} == {rows[i]["uid"].hex() for i in (2, 3)}
    assert found.description.startswith("2 rows, the first: a, part-00000.parquet, 3, ")
