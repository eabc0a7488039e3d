import json
import subprocess
import sys
from pathlib import Path

import pytest
from encoded_batches import BPE, CONFIG, encode, table
from token_corpus import MeanColour

from pipelines import storage
from pipelines.encode import bpe
from pipelines.layout import Layout
from pipelines.publish import diff, show
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import read_manifest, verify
from pipelines.publish.remove import remove


def command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", f"pipelines.publish.{name}", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_show_prints_rows_columns_funnel_and_examples(layout: Layout) -> None:
    manifest = publish(["a", "b"], layout, CONFIG)
    done = command("show", layout.token_dataset, "--examples", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("158 rows (2 for each pair)" in line for line in lines)
    assert "  image_tokens       fixed_size_list<element: uint16>[16]" in done.stdout.replace(
        " not null", ""
    )
    assert any(line.split() == ["repeated_uid", "20"] for line in lines)
    assert any(line.split() == ["token_dataset", "178", "158", "20"] for line in lines)
    for row in table(manifest, "tokens").slice(0, 3).to_pylist():
        assert any(line.startswith(row["uid"].hex()) and row["caption"] in line for line in lines)


def test_show_escapes_what_a_terminal_obeys(layout: Layout) -> None:
    manifest = publish(["a"], layout, CONFIG)
    assert all(line.isprintable() for line in show.lines(manifest, 5))


def test_show_of_nothing_is_one_line(tmp_path: Path) -> None:
    done = command("show", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "holds no published version" in done.stderr


def test_diff_counts_rows_and_names_what_changed(layout: Layout) -> None:
    a, both = publish(["a"], layout, CONFIG), publish(["a", "b"], layout, CONFIG)
    assert diff.compare_rows(a, both) == diff.Rows(added=60, removed=0, kept=98)
    assert diff.compare_rows(both, a) == diff.Rows(added=0, removed=60, kept=98)
    assert diff.compare_rows(both, a, at_once=7) == diff.Rows(added=0, removed=60, kept=98)
    done = command("diff", a.directory, both.directory)
    assert "60 rows added, 0 removed, 98 in both" in done.stdout
    assert "  batch b is new" in done.stdout
    assert "dvae_sha256" not in done.stdout
    assert command("diff", a.directory, a.directory).stdout == f"the same version, {a.version}\n"


def test_diff_names_models_and_filters(layout: Layout) -> None:
    before = publish(["a"], layout, CONFIG)
    old, new = before.dvae_sha256, MeanColour(grid=8).sha256
    marker = f"{layout.dataset('curated_pairs', 'a')}/_SUCCESS"
    value = storage.read_json(marker)
    encode(layout, "a", MeanColour(grid=8))
    storage.write_json(marker, value | {"fingerprint": "other rules"})
    after = publish(["a"], layout, CONFIG)
    lines = diff.lines(before, after)
    assert f"  dvae_sha256: {old} -> {new}" in lines
    assert "  curated_pairs was made again for 1 batches: a" in lines
    assert "98 in both" in lines[1]


def test_diff_shows_reasons_whose_share_changed(layout: Layout) -> None:
    a, both = publish(["a"], layout, CONFIG), publish(["a", "b"], layout, CONFIG)
    changed = {line.split()[1]: line for line in diff.changed_reasons(a, both)}
    assert "20 (11.24%)" in changed["repeated_uid"]
    assert changed["repeated_uid"].split()[2:4] == ["0", "(0.00%)"]


def test_remove_deletes_an_unused_version(layout: Layout) -> None:
    old, new = publish(["a"], layout, CONFIG), publish(["a", "b"], layout, CONFIG)
    done = command("remove", "--data-root", layout.root)
    assert f"v={old.version}  not used" in done.stdout
    assert f"v={new.version}  current" in done.stdout
    assert command("remove", "--data-root", layout.root, f"v={old.version}").returncode == 0
    names = {p.name for p in Path(layout.token_dataset).iterdir()}
    assert names == {".lock", "CURRENT", f"v={new.version}"}
    assert not storage.exists(layout.rejects("publish", old.version))
    verify(read_manifest(layout.token_dataset))
    again = publish(["a"], layout, CONFIG)
    assert again.version == old.version
    verify(again)


def test_remove_refuses_what_is_in_use(layout: Layout) -> None:
    old, new = publish(["a"], layout, CONFIG), publish(["a", "b"], layout, CONFIG)
    with pytest.raises(ValueError, match="is the current version"):
        remove(layout, new.version)
    storage.write_json(f"{layout.model('dalle')}/final/summary.json", {"dataset": old.version})
    done = command("remove", "--data-root", layout.root, f"v={old.version}")
    assert done.returncode == 2
    assert "was used to train" in done.stderr
    assert "models/dalle/final" in done.stderr
    verify(read_manifest(old.directory))
    with pytest.raises(FileNotFoundError, match="is no version; there are: v="):
        remove(layout, "v=nothing")


def test_a_removal_that_was_killed_leaves_no_half_version(layout: Layout) -> None:
    old, _ = publish(["a"], layout, CONFIG), publish(["a", "b"], layout, CONFIG)
    # As after a kill between the files: no marker, some of the files.
    (Path(old.directory) / "_SUCCESS").unlink()
    listing = command("remove", "--data-root", layout.root).stdout
    assert f"v={old.version}  not complete: being published, or left by a kill" in listing
    remove(layout, old.version)
    assert not Path(old.directory).exists()
    assert not Path(layout.rejects("publish", old.version)).exists()
    assert publish(["a"], layout, CONFIG).version == old.version
    verify(read_manifest(old.directory))


def test_another_tokenizer_is_another_version(layout: Layout) -> None:
    before = publish(["a"], layout, CONFIG)
    bpe.train_tokenizer(["a"], layout, BPE)
    encode(layout, "a")
    after = publish(["a"], layout, CONFIG)
    assert after.tokenizer_sha256 != before.tokenizer_sha256
    assert any(line.startswith("  tokenizer_sha256: ") for line in diff.lines(before, after))


def test_manifests_are_json_that_sorts(layout: Layout) -> None:
    text = Path(publish(["a"], layout, CONFIG).directory, "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"
