import pyarrow as pa
import pytest

from pipelines import schemas
from pipelines.schemas import DATASETS, Stage


def test_stages_sort_in_the_order_of_the_data_flow() -> None:
    assert sorted(Stage) == list(Stage)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_and_column_is_described(name: str) -> None:
    schema = DATASETS[name]
    assert schema.metadata[b"dataset"].decode() == name
    assert schema.metadata[b"row"]
    assert schema.metadata[b"contract_version"].decode() == schemas.CONTRACT_VERSION
    assert all(schemas.describe(schema).values())
    assert len(set(schema.names)) == len(schema.names)
    if name != "coco_hash_index":
        assert schema.field("uid").type == pa.binary(16)
        assert not schema.field("uid").nullable


def test_token_rows_are_as_the_paper_has_them() -> None:
    codes = schemas.token_grids(32).field("image_tokens").type
    assert codes.list_size == 1024
    assert codes.value_type == pa.uint16()
    assert not codes.value_field.nullable
    with pytest.raises(ValueError, match="grid must be at least 1, got 0"):
        schemas.token_grids(0)


def test_metadata_has_all_but_the_pictures() -> None:
    names = set(schemas.TOKEN_METADATA.names)
    assert names == {*schemas.CURATED_PAIRS.names, "crop_id", "crawl_batch"} - {"image"}


def test_a_schema_keeps_its_own_contract_and_may_add_provenance() -> None:
    for schema in DATASETS.values():
        assert schemas.violations(schema, schema.with_metadata({"dvae_sha256": "x"})) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.remove(0), "missing column 'uid'"),
        (lambda s: s.append(pa.field("more", pa.int8())), "unknown column 'more'"),
        (lambda s: s.set(1, pa.field("url", pa.binary(), nullable=False)), "'url' is binary"),
        (lambda s: s.set(1, pa.field("url", pa.string())), "'url' may hold nulls"),
        (lambda s: pa.schema(list(s)[::-1]), "columns are ordered"),
    ],
)
def test_violations_are_named(change, message: str) -> None:
    expected = schemas.REJECTS
    expected = expected.set(1, pa.field("url", pa.string(), nullable=False))
    found = schemas.violations(expected, change(expected))
    assert len(found) == 1
    assert message in found[0]


def test_a_stricter_file_keeps_the_contract() -> None:
    strict = pa.schema([field.with_nullable(False) for field in schemas.FETCHED_PAIRS])
    assert schemas.violations(schemas.FETCHED_PAIRS, strict) == []
