"""The generated checks find what they are for."""

from pathlib import Path

import pyarrow as pa
import pytest

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
