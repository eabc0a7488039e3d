"""Rows that break the contract's values are found, each with its place and the rule's words."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import parquet, schemas
from pipelines.row_rules import Offence, offending_rows

SOUND: dict[str, dict[str, Any]] = {
    "image_text_candidates": {"url": "https://a.example/1.png"},
    "fetched_pairs": {"outcome": "ok", "image_sha256": bytes(32)},
    "curated_pairs": {
        "url": "https://a.example/1.png",
        "caption": "a red bicycle",
        "width": 3,
        "height": 2,
        "aspect": 1.5,
        "lang_score": 1.0,
    },
    "token_grids": {
        "text_tokens": [0, 9],
        "text_length": 2,
        "image_tokens": [0, 1, 2, 15],
        "crop_id": 0,
    },
}
FACTS = {"text_vocabulary": "10", "image_vocabulary": "16"}
PLAIN = {
    "string": "",
    "bool": False,
    "timestamp[us, tz=UTC]": datetime(2026, 1, 1, tzinfo=UTC),
    "binary": b"",
}


def written(directory: Path, dataset: str, rows: list[dict[str, Any]], part: int = 0) -> None:
    schema = schemas.token_grids(2) if dataset == "token_grids" else schemas.DATASETS[dataset]
    filled = []
    for number, changes in enumerate(rows):
        row = {
            f.name: None if f.nullable else _plain(f.type) for f in schema if f.name != "uid"
        } | {"uid": bytes([part, number] + [7] * 14)}
        filled.append(row | SOUND[dataset] | changes)
    batch = pa.RecordBatch.from_pylist(filled, schema=schema)
    whole = schema.with_metadata({**schema.metadata, **FACTS})
    parquet.write(str(directory / f"part-{part:05}.parquet"), [batch], whole)


def _plain(kind: pa.DataType) -> Any:
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    return PLAIN.get(str(kind), 0)


@pytest.mark.parametrize(
    ("dataset", "change", "problem"),
    [
        ("image_text_candidates", {"url": "file:///etc/passwd"}, "the URL is no web address"),
        ("fetched_pairs", {"outcome": "timeout"}, "the outcome and the picture contradict"),
        ("fetched_pairs", {"image_sha256": None}, "the outcome and the picture contradict"),
        ("curated_pairs", {"url": "a.png"}, "the URL is no web address"),
        ("curated_pairs", {"caption": " \u2003"}, "the caption is empty"),
        ("curated_pairs", {"width": 4}, "width, height and aspect contradict"),
        ("curated_pairs", {"height": 0, "aspect": 0.0}, "width, height and aspect contradict"),
        ("curated_pairs", {"lang_score": 1.5}, "lang_score is no probability"),
        ("curated_pairs", {"lang_score": float("nan")}, "lang_score is no probability"),
        ("token_grids", {"text_length": 3}, "text_length is not the number of ids"),
        ("token_grids", {"text_tokens": [10, 0]}, "a text id beyond the vocabulary"),
        ("token_grids", {"image_tokens": [16, 0, 0, 0]}, "an image code beyond the codebook"),
    ],
)
def test_a_broken_row_is_named(
    tmp_path: Path, dataset: str, change: dict[str, Any], problem: str
) -> None:
    written(tmp_path, dataset, [{}, {}, change, {}], part=3)
    uid = bytes([3, 2] + [7] * 14).hex()
    assert list(offending_rows(str(tmp_path), dataset)) == [
        Offence("part-00003.parquet", 2, uid, problem)
    ]


@pytest.mark.parametrize("dataset", SOUND)
def test_sound_rows_pass(tmp_path: Path, dataset: str) -> None:
    written(tmp_path, dataset, [{}] * 5)
    written(tmp_path, dataset, [{}] * 5, part=1)
    assert list(offending_rows(str(tmp_path), dataset)) == []


def test_a_repeated_uid_is_named_in_another_file_too(tmp_path: Path) -> None:
    twice = {"uid": bytes(16)}
    written(tmp_path, "curated_pairs", [{}, twice])
    written(tmp_path, "curated_pairs", [twice], part=1)
    found = list(offending_rows(str(tmp_path), "curated_pairs"))
    assert found == [Offence("part-00001.parquet", 0, bytes(16).hex(), "uid seen before")]


def test_crops_of_one_pair_are_rows_of_their_own(tmp_path: Path) -> None:
    crops = [{"uid": bytes(16), "crop_id": crop} for crop in (0, 1, 1)]
    written(tmp_path, "token_grids", crops)
    found = list(offending_rows(str(tmp_path), "token_grids"))
    assert [(o.row, o.problem) for o in found] == [(2, "uid and crop_id seen before")]
