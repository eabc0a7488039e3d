import itertools
from pathlib import Path

import mlcroissant
import numpy as np
from encoded_batches import CONFIG, table

from pipelines.layout import Layout
from pipelines.publish.dataset import publish


def test_mlcroissant_takes_it_and_reads_the_rows(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    dataset = mlcroissant.Dataset(jsonld=str(Path(manifest.directory, "croissant.json")))
    assert not dataset.metadata.ctx.issues.errors
    for name in ("tokens", "metadata"):
        expected = table(manifest, name)
        rows = list(dataset.records(f"{name}_rows"))
        assert len(rows) == manifest.rows
        assert set(rows[0]) == {f"{name}_rows/{column}" for column in expected.column_names}
        for row, same in itertools.islice(zip(rows, expected.to_pylist(), strict=True), 20):
            assert row[f"{name}_rows/caption"] == same["caption"].encode()
            if name == "tokens":
                codes = np.asarray(row["tokens_rows/image_tokens"])
                assert codes.tolist() == same["image_tokens"]


def test_every_column_has_its_words(layout: Layout) -> None:
    manifest = publish(["a"], layout, CONFIG)
    dataset = mlcroissant.Dataset(jsonld=str(Path(manifest.directory, "croissant.json")))
    fields = [field for records in dataset.metadata.record_sets for field in records.fields]
    assert len(fields) == 7 + len(table(manifest, "metadata").column_names)
    assert all(field.description for field in fields)
    hashes = {file.path: file.sha256 for file in manifest.files}
    described = {
        thing.id: thing.sha256
        for thing in dataset.metadata.distribution
        if hasattr(thing, "sha256")
    }
    assert described["tokenizer.json"] == manifest.tokenizer_sha256
    assert described == {path: hashes[path] for path in described}
    assert set(manifest.samples) <= set(described)
