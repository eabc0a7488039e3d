import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from encoded_batches import BPE, CONFIG, build, encode, table
from token_corpus import MeanColour, write_batch

from pipelines import ledger, schemas, storage
from pipelines.encode import bpe
from pipelines.layout import Layout
from pipelines.publish.config import PublishConfig
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import (
    DatasetError,
    Level,
    read_manifest,
    verify,
)


def test_a_version_holds_every_row_once(layout: Layout) -> None:
    manifest = publish(["b", "a"], layout, CONFIG)
    assert manifest.rows == (49 + 40 - 10) * 2
    assert manifest.dropped == {"repeated_uid": 20}
    assert [f.rows for f in manifest.token_files] == [50, 50, 50, 8]
    assert [f.rows for f in manifest.metadata_files] == [50, 50, 50, 8]
    tokens, metadata = table(manifest, "tokens"), table(manifest, "metadata")
    keys = list(zip(*(tokens.column(n).to_pylist() for n in ("uid", "crop_id")), strict=True))
    assert len(set(keys)) == len(keys) == manifest.rows
    for name in ("uid", "crop_id", "caption"):
        assert metadata.column(name).equals(tokens.column(name))
    assert metadata.column("crawl_batch").to_pylist().count("a") == 49 * 2

    source = {
        (row["uid"], row["crop_id"]): row
        for batch in "ab"
        for shard in storage.list_files(layout.dataset("token_grids", batch), ".parquet")
        for row in pq.ParquetFile(shard).read().to_pylist()
    }
    assert {(r["uid"], r["crop_id"]): r for r in tokens.to_pylist()} == source


def test_rows_are_shuffled(layout: Layout) -> None:
    tokens = table(publish(["a"], layout, CONFIG), "tokens")
    crops = tokens.column("crop_id").to_pylist()
    uids = tokens.column("uid").to_pylist()
    assert crops != sorted(crops)
    assert crops != [0, 1] * 49
    assert uids != sorted(uids)
    again = table(publish(["a"], layout, PublishConfig(rows_per_file=50, seed=1)), "tokens")
    assert again.column("uid").to_pylist() != uids
    assert sorted(again.column("uid").to_pylist()) == sorted(uids)


def test_files_keep_the_contract_and_the_provenance(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    file = pq.ParquetFile(manifest.url(manifest.token_files[0]))
    assert schemas.violations(schemas.token_grids(4), file.schema_arrow) == []
    assert file.schema_arrow.metadata[b"dvae_sha256"].decode() == manifest.dvae_sha256
    assert [file.metadata.row_group(i).num_rows for i in range(4)] == [16, 16, 16, 2]
    metadata = pq.ParquetFile(manifest.url(manifest.metadata_files[0]))
    assert schemas.violations(schemas.TOKEN_METADATA, metadata.schema_arrow) == []
    assert bpe.load_tokenizer(f"{manifest.directory}/tokenizer.json", manifest.tokenizer_sha256)


def test_publishing_again_changes_nothing(layout: Layout) -> None:
    first = publish(["a", "b"], layout, CONFIG)

    def state() -> dict[str, int]:
        root = Path(layout.token_dataset)
        return {str(p): p.stat().st_mtime_ns for p in root.rglob("*") if p.name != ".lock"}

    before = state()
    assert publish(["b", "a"], layout, CONFIG) == first
    assert state() == before


def test_same_inputs_same_version_whatever_the_memory(encoded: Path, tmp_path: Path) -> None:
    one = publish(["a", "b"], build(tmp_path / "one"), CONFIG)
    small = PublishConfig(
        rows_per_file=50, row_group_rows=16, licences=CONFIG.licences, bucket_rows=7
    )
    two = publish(["a", "b"], build(tmp_path / "two"), small)
    assert one.version == two.version
    assert one.files == two.files
    assert one.version == ledger.content_hash({f.path: f.sha256 for f in one.files})


def test_current_follows_the_last_publication(layout: Layout) -> None:
    both = publish(["a", "b"], layout, CONFIG)
    assert read_manifest(layout.token_dataset) == both
    one = publish(["a"], layout, CONFIG)
    assert one.version != both.version
    assert read_manifest(layout.token_dataset) == one
    assert read_manifest(both.directory) == both
    assert publish(["a", "b"], layout, CONFIG) == both
    assert read_manifest(layout.token_dataset) == both


def test_repeated_pairs_are_rejects(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    shard = layout.rejects(schemas.Stage.PUBLISH, manifest.version) + "/part-00000.parquet"
    rejects = pq.read_table(shard).to_pylist()
    assert len(rejects) == 20
    assert {row["reason"] for row in rejects} == {"repeated_uid"}
    assert all(row["url"] for row in rejects)


def test_the_manifest_tells_the_whole_funnel(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    a = [r for r in manifest.stages if r.batch == "a"]
    assert [r.dataset for r in a] == [
        "image_text_candidates",
        "fetched_pairs",
        "curated_pairs",
        "deduped_pairs",
        "token_grids",
    ]
    assert [(r.rows_in, r.kept) for r in a] == [(60, 59), (59, 56), (56, 53), (53, 50), (50, 49)]
    assert a[-1].dropped == {"undecodable_image": 1}
    value = json.loads(Path(manifest.directory, "manifest.json").read_text())
    assert value["rows"] == manifest.rows
    assert "directory" not in value
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", value["created_at"])


def test_the_funnel_over_all_batches_is_their_sum(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    found = {record.dataset: record for record in manifest.funnel()}
    assert next(iter(found)) == "image_text_candidates"
    assert list(found)[-1] == "token_dataset"
    for dataset in ("curated_pairs", "token_grids"):
        parts = [r for r in manifest.stages if r.dataset == dataset]
        assert len(parts) == 2
        assert found[dataset].rows_in == sum(r.rows_in for r in parts)
        assert found[dataset].kept == sum(r.kept for r in parts)
        assert sum(found[dataset].dropped.values()) == found[dataset].rows_in - found[dataset].kept


def test_the_card_says_what_was_done(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    card = Path(manifest.directory, "README.md").read_text()
    assert "| dedupe | deduped_pairs | 96 | 90 | near_duplicate 6 |" in card
    assert "| encode | token_grids | 90 | 89 | undecodable_image 1 |" in card
    assert "| publish | token_dataset | 178 | 158 | repeated_uid 20 |" in card
    assert manifest.dvae_sha256 in card
    assert CONFIG.licences in card
    captions = table(manifest, "tokens").column("caption").slice(0, 10).to_pylist()
    assert all(f"    {caption}\n" in card for caption in captions)
    # The reader it shows works.
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    script = f"{code}\nassert tokens.num_rows == metadata.num_rows == {manifest.rows}"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=manifest.directory)


@pytest.mark.parametrize("level", list(Level))
def test_verify_names_the_first_bad_file(layout: Layout, level: Level) -> None:
    manifest = publish(["a"], layout, CONFIG)
    verify(manifest, level)
    path = Path(manifest.url(manifest.token_files[1]))
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(DatasetError, match=r"tokens/part-00001\.parquet has \d+ bytes"):
        verify(manifest, level)
    path.unlink()
    with pytest.raises(DatasetError, match=r"tokens/part-00001\.parquet is missing"):
        verify(manifest, level)


def test_verify_finds_a_flipped_bit(layout: Layout) -> None:
    manifest = publish(["a"], layout, CONFIG)
    path = Path(manifest.url(manifest.metadata_files[0]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    verify(manifest, Level.SIZES)
    with pytest.raises(DatasetError, match=r"metadata/part-00000\.parquet has sha256"):
        verify(manifest, Level.HASHES)


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _break_the_contract(path: Path) -> None:
    """Another file, of which the manifest knows everything, but with a column too few."""
    pq.write_table(pq.read_table(path).drop_columns(["caption"]), path)
    directory = path.parents[1]
    manifest = json.loads((directory / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["path"] == str(path.relative_to(directory)):
            data = path.read_bytes()
            file |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_cut_off, r"has \d+ bytes, its manifest says"), (_break_the_contract, "missing column")],
)
def test_a_bad_version_never_becomes_current(
    layout: Layout, spoil: Callable[[Path], None], said: str
) -> None:
    both = publish(["a", "b"], layout, CONFIG)
    one = publish(["a"], layout, CONFIG)
    spoil(Path(both.url(both.metadata_files[1])))
    with pytest.raises(DatasetError, match=f"{both.version} does not become.*{said}") as refused:
        publish(["a", "b"], layout, CONFIG)
    assert read_manifest(layout.token_dataset) == one
    # What the sentence says to do helps.
    marker = re.search(r"remove (\S+) and publish again", str(refused.value))
    assert marker is not None
    os.unlink(marker[1])
    again = publish(["a", "b"], layout, CONFIG)
    assert again.files == both.files
    verify(read_manifest(layout.token_dataset))


def test_other_tokenizers_are_refused(layout: Layout) -> None:
    encode(layout, "b", MeanColour(grid=8))
    with pytest.raises(ValueError, match="batch a and batch b differ in dvae_sha256"):
        publish(["a", "b"], layout, CONFIG)
    bpe.train_tokenizer(["a"], layout, BPE)
    with pytest.raises(ValueError, match="trained again since"):
        publish(["a"], layout, CONFIG)
    encode(layout, "b")
    with pytest.raises(ValueError, match="differ in tokenizer_sha256"):
        publish(["a", "b"], layout, CONFIG)
    assert not storage.exists(f"{layout.token_dataset}/CURRENT")


@pytest.mark.parametrize("dataset", ["fetched_pairs", "deduped_pairs", "token_grids"])
def test_an_unfinished_stage_is_refused(layout: Layout, dataset: str) -> None:
    os.unlink(f"{layout.dataset(dataset, 'b')}/_SUCCESS")
    with pytest.raises(FileNotFoundError, match=rf"{dataset}/batch=b is not finished"):
        publish(["a", "b"], layout, CONFIG)


def test_out_of_date_tokens_are_refused(layout: Layout) -> None:
    write_batch(layout, "a", range(30))
    with pytest.raises(ValueError, match="materialise token_grids again"):
        publish(["a"], layout, CONFIG)


def test_nothing_to_publish_is_refused(layout: Layout) -> None:
    with pytest.raises(ValueError, match="name at least one"):
        publish([], layout, CONFIG)
    write_batch(layout, "empty", range(0))
    encode(layout, "empty")
    with pytest.raises(ValueError, match="no token row"):
        publish(["empty"], layout, CONFIG)


def test_reading_what_is_not_there(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(FileNotFoundError, match="holds no published version"):
        read_manifest(str(tmp_path))
    manifest = publish(["a"], layout, CONFIG)
    os.unlink(f"{manifest.directory}/_SUCCESS")
    with pytest.raises(FileNotFoundError, match="not complete"):
        read_manifest(layout.token_dataset)


def test_a_failure_leaves_nothing_behind(layout: Layout) -> None:
    Path(layout.tokenizer, "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="materialise bpe_tokenizer again"):
        publish(["a"], layout, CONFIG)
    assert [p.name for p in Path(layout.token_dataset).iterdir()] == [".lock"]


def test_two_publications_at_once(layout: Layout) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(publish, [(["a", "b"], layout, CONFIG)] * 2)
    assert first == second == read_manifest(layout.token_dataset)
    verify(first)


def test_a_killed_publication_is_done_again(layout: Layout) -> None:
    script = (
        "import os, signal; from pipelines.publish import card, dataset as d;"
        "card.render = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "from pipelines.layout import Layout;"
        f"d.publish(['a'], Layout({layout.root!r}), d.PublishConfig(rows_per_file=50))"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    root = Path(layout.token_dataset)
    assert {p.name for p in root.iterdir()} == {".lock", ".publishing"}
    manifest = publish(["a"], layout, PublishConfig(rows_per_file=50))
    verify(manifest)
    assert {p.name for p in root.iterdir()} == {".lock", "CURRENT", f"v={manifest.version}"}


def test_an_object_store_gets_the_same_version(layout: Layout) -> None:
    fs, path = storage.filesystem("memory://bucket")
    fs.put(layout.root, path, recursive=True)
    remote = publish(["a", "b"], Layout("memory://bucket"), CONFIG)
    verify(remote)
    assert remote.version == publish(["a", "b"], layout, CONFIG).version
    assert publish(["a", "b"], Layout("memory://bucket"), CONFIG) == remote
    fs.rm(path, recursive=True)


def test_manifest_module_is_light() -> None:
    script = (
        "import sys, pipelines.publish.manifest;"
        "heavy = {'pyarrow', 'torch', 'apache_beam', 'tokenizers'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_manifest_that_names_files_elsewhere_is_refused(layout: Layout) -> None:
    manifest = publish(["a"], layout, CONFIG)
    path = Path(manifest.directory, "manifest.json")
    path.write_text(path.read_text().replace("README.md", "../../README.md"))
    with pytest.raises(DatasetError, match="which is not below it"):
        read_manifest(manifest.directory)
