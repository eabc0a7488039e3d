import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from encoded_batches import CONFIG, table

from pipelines import storage
from pipelines.crawl.consent.takedown import read_takedown
from pipelines.identity import uid
from pipelines.layout import Layout
from pipelines.publish import versions
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import Manifest, read_manifest, verify
from pipelines.publish.takedown import Removal, take_down


def listed(tmp_path: Path, *entries: str) -> str:
    path = tmp_path / "takedown.txt"
    path.write_text("\n".join(entries))
    return str(path)


def removal(layout: Layout, tmp_path: Path, *entries: str) -> Removal:
    return take_down(layout, read_takedown(listed(tmp_path, *entries)))


def url(index: int) -> str:
    return f"http://example.org/{index}.png"


def rows_by_key(manifest: Manifest, name: str) -> dict[tuple[bytes, int], object]:
    return {(row["uid"], row["crop_id"]): row for row in table(manifest, name).to_pylist()}


def test_listed_rows_are_gone_and_others_are_not_touched(layout: Layout, tmp_path: Path) -> None:
    before = publish(["a", "b"], layout, CONFIG)
    gone = {row["uid"] for row in table(before, "metadata").to_pylist() if row["url"] == url(3)}
    done = removal(layout, tmp_path, url(3))
    after = done.manifest
    verify(after)
    assert (done.rows, before.rows - after.rows) == (2, 2)
    assert after.dropped == {"repeated_uid": 20, "taken_down": 2}
    assert after.parent == before.version
    assert read_manifest(layout.token_dataset) == after
    for name in ("tokens", "metadata"):
        kept = {k: row for k, row in rows_by_key(before, name).items() if k[0] not in gone}
        assert rows_by_key(after, name) == kept
        uids = table(after, name).column("uid").to_pylist()
        assert uids == [u for u in table(before, name).column("uid").to_pylist() if u not in gone]
    card = Path(after.directory, "README.md").read_text()
    assert "| publish | token_dataset | 178 | 156 | repeated_uid 20, taken_down 2 |" in card


def test_two_takedowns_at_once_both_count(layout: Layout, tmp_path: Path) -> None:
    publish(["a", "b"], layout, CONFIG)
    lists = [read_takedown(listed(tmp_path, url(index))) for index in (3, 4)]
    with ThreadPoolExecutor() as pool:
        with versions.only_publication(layout.token_dataset):
            waiting = [pool.submit(take_down, layout, one) for one in lists]
            time.sleep(0.5)  # until both wait for the lock
        assert [one.result().rows for one in waiting] == [2, 2]
    left = table(read_manifest(layout.token_dataset), "metadata").column("url").to_pylist()
    assert not {url(3), url(4)} & set(left)


def test_a_takedown_undoes_no_publication_from_elsewhere(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = publish(["a", "b"], layout, CONFIG)
    other = publish(["b"], layout, CONFIG)
    versions.make_current(layout, before)
    seal = versions.seal

    def beside(*words: Any) -> Manifest:
        versions.make_current(layout, other)  # as on an object store, without a lock
        return seal(*words)

    monkeypatch.setattr(versions, "seal", beside)
    with pytest.raises(ValueError, match="was published meanwhile; take down again"):
        removal(layout, tmp_path, url(3))
    assert versions.current(layout) == other.version


def test_only_files_with_listed_rows_are_written(layout: Layout, tmp_path: Path) -> None:
    before = publish(["a", "b"], layout, CONFIG)
    wanted = table(before, "metadata").slice(0, 1).to_pylist()[0]["uid"]
    done = removal(layout, tmp_path, wanted.hex())
    same = {
        file.path
        for file in (*done.manifest.token_files, *done.manifest.metadata_files)
        if os.path.samefile(done.manifest.url(file), f"{before.directory}/{file.path}")
    }
    assert done.files_in_all == 8
    assert len(same) == 8 - done.files
    assert 0 < done.files < 8
    # Both tables are cut in the same places.
    assert {p.replace("tokens", "") for p in same if "tokens" in p} == {
        p.replace("metadata", "") for p in same if "metadata" in p
    }


@pytest.mark.parametrize("column", ["uid", "image_sha256"])
def test_hashes_are_entries_too(layout: Layout, tmp_path: Path, column: str) -> None:
    before = publish(["a"], layout, CONFIG)
    row = table(before, "metadata").to_pylist()[0]
    done = removal(layout, tmp_path, row[column].hex().upper())
    assert done.rows == 2
    assert row["uid"] not in table(done.manifest, "metadata").column("uid").to_pylist()


def test_a_domain_covers_its_subdomains_and_no_other(layout: Layout, tmp_path: Path) -> None:
    before = publish(["a"], layout, CONFIG)
    nothing = removal(layout, tmp_path, "ample.org", "www.example.org", "example.org.uk")
    assert (nothing.rows, nothing.manifest) == (0, before)
    with pytest.raises(ValueError, match="takes down every row"):
        removal(layout, tmp_path, "example.org")
    assert [p.name for p in Path(layout.token_dataset).iterdir() if "publishing" in p.name] == []


def test_sample_pictures_go_with_their_rows(layout: Layout, tmp_path: Path) -> None:
    before = publish(["a"], layout, CONFIG)
    path = next(iter(before.samples))
    key = path.rsplit("/", 1)[1].partition(".")[0]
    after = removal(layout, tmp_path, key).manifest
    assert path not in after.samples
    assert len(after.samples) == len(before.samples) - 1
    assert not storage.exists(f"{after.directory}/{path}")
    for kept in after.samples:
        assert storage.exists(f"{after.directory}/{kept}")
    assert key not in Path(after.directory, "README.md").read_text()
    assert key not in Path(after.directory, "croissant.json").read_text()


def test_rejects_name_no_url_of_what_was_taken_down(layout: Layout, tmp_path: Path) -> None:
    publish(["a", "b"], layout, CONFIG)
    version = removal(layout, tmp_path, url(3), url(45)).manifest.version  # both batches have 45
    rejects = pq.read_table(f"{layout.rejects('publish', version)}/part-00000.parquet").to_pylist()
    reasons = [row["reason"] for row in rejects]
    assert (len(rejects), reasons.count("taken_down")) == (24, 4)
    gone = {row["uid"] for row in rejects if row["reason"] == "taken_down"}
    nameless = [row for row in rejects if row["url"] is None and row["caption_raw"] is None]
    assert [row["uid"] in gone for row in nameless] == [True] * 6
    assert all(row["url"] for row in rejects if row not in nameless)


def test_a_publication_leaves_out_what_its_list_names(layout: Layout, tmp_path: Path) -> None:
    publish(["a", "b"], layout, CONFIG)
    after = removal(layout, tmp_path, url(3)).manifest
    storage.remove(layout.takedowns, recursive=True)
    again = publish(["a", "b"], layout, CONFIG, read_takedown(listed(tmp_path, url(3))))
    assert rows_by_key(again, "metadata") == rows_by_key(after, "metadata")
    assert again.dropped == after.dropped


def urls(manifest: Manifest) -> set[str]:
    return set(table(manifest, "metadata").column("url").to_pylist())


def kept_lists(layout: Layout) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(layout.takedowns).iterdir()}


def test_what_was_taken_down_does_not_come_back(layout: Layout, tmp_path: Path) -> None:
    before = publish(["a", "b"], layout, CONFIG)
    assert {url(3), url(4)} <= urls(before)
    removal(layout, tmp_path, url(3))
    removal(layout, tmp_path, url(4))
    again = publish(["a", "b"], layout, CONFIG)
    assert urls(again) == urls(before) - {url(3), url(4)}
    assert again.dropped == {"repeated_uid": 20, "taken_down": 4}
    assert read_manifest(layout.token_dataset) == again
    # Nor in another batch, which has some of the pairs that were taken down.
    removal(layout, tmp_path, url(45))
    assert url(45) not in urls(publish(["b"], layout, CONFIG))


def test_a_list_counts_although_no_row_of_the_current_version_is_on_it(
    layout: Layout, tmp_path: Path
) -> None:
    publish(["b"], layout, CONFIG)
    assert removal(layout, tmp_path, url(3)).rows == 0  # only batch a has it
    assert url(3) not in urls(publish(["a", "b"], layout, CONFIG))


def test_the_same_list_twice_is_the_same(layout: Layout, tmp_path: Path) -> None:
    publish(["a", "b"], layout, CONFIG)
    once = removal(layout, tmp_path, url(3), "# asked for by Jane Roe", url(4)).manifest
    lists = kept_lists(layout)
    twice = removal(layout, tmp_path, url(4), url(3))
    assert (twice.rows, twice.manifest) == (0, once)
    assert kept_lists(layout) == lists
    assert list(lists.values()) == [f"{url(3)}\n{url(4)}\n"]
    again = publish(["a", "b"], layout, CONFIG)
    same = read_takedown(listed(tmp_path, url(4)))
    assert publish(["a", "b"], layout, CONFIG, same) == again


def test_a_refused_list_does_not_count(layout: Layout, tmp_path: Path) -> None:
    before = publish(["a"], layout, CONFIG)
    with pytest.raises(ValueError, match="takes down every row"):
        removal(layout, tmp_path, "example.org")
    assert publish(["a"], layout, CONFIG) == before


def test_a_takedown_that_was_killed_counts(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = publish(["a", "b"], layout, CONFIG)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versions, "make_current", killed)
        with pytest.raises(KeyboardInterrupt):
            removal(layout, tmp_path, url(3))
    assert read_manifest(layout.token_dataset) == before
    assert url(3) not in urls(publish(["a", "b"], layout, CONFIG))


def test_models_and_checkpoints_that_saw_the_rows_are_named(layout: Layout, tmp_path: Path) -> None:
    both, b = publish(["a", "b"], layout, CONFIG), publish(["b"], layout, CONFIG)
    storage.write_json(f"{layout.model('old')}/final/summary.json", {"dataset": both.version})
    storage.write_json(f"{layout.model('new')}/final/summary.json", {"dataset": b.version})
    running = f"{layout.model('dalle')}/checkpoints/update-000000007"
    storage.write_json(f"{running}/state.json", {"dataset": both.version})
    storage.write_json(f"{layout.model('dvae')}/final/summary.json", {"perplexity": 1.0})
    storage.write_json(f"{layout.model('other')}/final/summary.json", {"batches": ["b"]})
    # Only batch a has it, which the current version, b's, does not hold.
    script = [sys.executable, "-m", "pipelines.publish.takedown", listed(tmp_path, url(3))]
    done = subprocess.run(
        [*script, "--data-root", layout.root], capture_output=True, text=True, check=True
    )
    assert "no row of version" in done.stdout
    said = [line.split(" saw ") for line in done.stdout.splitlines() if " saw " in line]
    assert sorted(said) == [
        [running, f"2 of the listed rows, in version {both.version}"],
        [f"{layout.model('old')}/final", f"2 of the listed rows, in version {both.version}"],
    ]


def test_models_trained_on_pairs_are_named_by_batch(layout: Layout, tmp_path: Path) -> None:
    publish(["a", "b"], layout, CONFIG)
    for name, batches in (("dvae", ["a"]), ("contrastive", ["b"])):
        storage.write_json(f"{layout.model(name)}/final/summary.json", {"batches": batches})
    saw = removal(layout, tmp_path, url(3)).saw
    assert [(use.path, use.batches, rows) for use, rows in saw] == [
        (f"{layout.model('dvae')}/final", ("a",), 2)
    ]


def test_object_stores(layout: Layout, tmp_path: Path) -> None:
    fs, path = storage.filesystem("memory://takedown")
    fs.put(layout.root, path, recursive=True)
    publish(["a", "b"], Layout("memory://takedown"), CONFIG)
    remote = removal(Layout("memory://takedown"), tmp_path, url(3)).manifest
    verify(remote)
    publish(["a", "b"], layout, CONFIG)
    assert remote.version == removal(layout, tmp_path, url(3)).manifest.version
    fs.rm(path, recursive=True)


def test_a_uid_is_an_entry(tmp_path: Path) -> None:
    key = uid("http://example.org/1.png", "a cat")
    found = read_takedown(listed(tmp_path, f"{key.hex()}  # asked for in a letter", "example.org"))
    assert found.uids == {key}
    assert found.domains == {"example.org"}


def test_a_missing_list_is_an_error(layout: Layout) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.publish.takedown", "/no/list", "--data-root", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: /no/list, the takedown list, is not there\n"
