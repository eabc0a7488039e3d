"""A data root in S3: a real server process, real builds, real kills."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import encoded_batches
import fsspec
import numpy as np
import pyarrow as pa
import pytest
import shard_stages
import tiny_training
from deployment import REPOSITORY, FinishedSite, make_site, run_demo
from encoded_batches import CONFIG
from s3_server import BUCKET, s3_server
from token_corpus import MeanColour, write_batch

from pipelines import ledger, parquet, storage
from pipelines.crawl.consent.takedown import read_takedown
from pipelines.layout import Layout, join
from pipelines.publish import versions
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import PublishedFile, read_manifest, sha256, verify
from pipelines.publish.takedown import take_down
from pipelines.runners import Engine

_roots = itertools.count()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as environment:
        yield environment


@pytest.fixture
def layout(s3: dict[str, str]) -> Layout:
    """An empty data root of its own."""
    return Layout(f"s3://{BUCKET}/{next(_roots)}/data")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return encoded_batches.build(tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def expected(encoded: Layout, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The version that a local disk gets."""
    root = tmp_path_factory.mktemp("local") / "data"
    shutil.copytree(encoded.root, root)
    return publish(["a", "b"], Layout(str(root)), CONFIG).version


def run(script: str, **environment: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(Path(shard_stages.__file__).parent), str(REPOSITORY)])
    return subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path, **environment}
    )


def keys(url: str) -> set[str]:
    return set(storage.tree(url))


def copy(local: Layout, there: Layout) -> None:
    fs, path = storage.filesystem(there.root)
    fs.put(f"{local.root}/", f"{path}/", recursive=True)


def test_an_upload_that_breaks_off_is_never_seen(layout: Layout) -> None:
    url = join(layout.root, "a", "b")
    storage.write_bytes(url, b"old")
    with pytest.raises(pa.ArrowInvalid, match="missing columns"):
        parquet.write(url, [pa.record_batch({"other": [1]})], pa.schema([("one", pa.int64())]))
    assert storage.read_bytes(url) == b"old"
    # Two parts of a multipart upload are in the store when the process ends.
    killed = run(
        "import os, signal; from pipelines import storage\n"
        f"with storage.atomic_output({url!r}) as stream:\n"
        "    for _ in range(12): stream.write(bytes(10_000_000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert killed.wait() == -signal.SIGKILL
    client = fsspec.filesystem("s3").call_s3
    uploads = client("list_multipart_uploads", Bucket=BUCKET)["Uploads"]
    assert [upload["Key"] for upload in uploads] == [url.removeprefix(f"s3://{BUCKET}/")]
    assert storage.read_bytes(url) == b"old"
    assert storage.list_files(join(layout.root, "a")) == [url]


def test_another_process_sees_what_was_written(layout: Layout) -> None:
    storage.write_bytes(join(layout.root, "d", "1"), b"1")
    assert len(storage.list_files(join(layout.root, "d"))) == 1
    other = run(f"from pipelines import storage; storage.write_bytes('{layout.root}/d/2', b'2')")
    assert other.wait() == 0
    assert len(storage.list_files(join(layout.root, "d"))) == 2


def test_a_killed_stage_goes_on_to_the_same_content(layout: Layout, tmp_path: Path) -> None:
    stage = shard_stages.stage
    shards = shard_stages.write_input(join(layout.root, "input"))
    whole = stage(Layout(str(tmp_path))).run(shards, Engine())
    receipts = join(stage(layout).output, "_receipts")
    killed = run(
        "from shard_stages import *; from pipelines.runners import Engine;"
        f"stage(Layout({layout.root!r}), KillAfterTwoShards).run({shards!r}, Engine())",
        RECEIPTS=receipts,
    )
    assert killed.wait() == -signal.SIGKILL
    assert len(storage.list_files(receipts, ".json")) == 2
    assert ledger.read_success(stage(layout).output) is None
    before = storage.tree(receipts)
    assert stage(layout).run(shards, Engine()) == whole
    assert before.items() <= storage.tree(receipts).items()


def test_publications_at_once_do_not_harm_each_other(
    layout: Layout, encoded: Layout, expected: str, tmp_path: Path
) -> None:
    copy(encoded, layout)
    script = (
        "import dataclasses, os, sys, time\n"
        "from encoded_batches import CONFIG; from pipelines.layout import Layout\n"
        "from pipelines.publish.dataset import publish\n"
        "open(os.environ['READY'], 'w').close()\n"
        "while not os.path.exists(os.environ['GO']): time.sleep(0.01)\n"
        "config = dataclasses.replace(CONFIG, seed=int(os.environ['SEED']))\n"
        f"publish(['a', 'b'], Layout({layout.root!r}), config)"
    )
    go, ready = tmp_path / "go", [tmp_path / str(i) for i in range(3)]
    seeds = ("0", "0", "1")
    working = [
        run(script, READY=str(path), GO=str(go), SEED=seed)
        for path, seed in zip(ready, seeds, strict=True)
    ]
    while not all(path.exists() for path in ready):
        assert all(process.poll() is None for process in working)
        time.sleep(0.05)
    go.touch()
    assert [process.wait() for process in working] == [0, 0, 0]
    found = versions.versions(layout)
    assert len(found) == 2
    for directory in found:
        verify(read_manifest(directory))
        rejects = layout.rejects("publish", read_manifest(directory).version)
        assert storage.list_files(rejects)
    assert versions.version_directory(layout, expected) in found
    assert read_manifest(layout.token_dataset).directory in found


def test_a_killed_publication_is_not_seen_and_done_again(
    layout: Layout, encoded: Layout, expected: str
) -> None:
    copy(encoded, layout)
    killed = run(
        "import itertools, os, signal; from encoded_batches import CONFIG\n"
        "from s3fs import S3FileSystem; from pipelines.layout import Layout\n"
        "from pipelines.publish.dataset import publish\n"
        "put, count = S3FileSystem._put_file, itertools.count()\n"
        "async def fourth(*words, **options):\n"
        "    if next(count) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    await put(*words, **options)\n"
        "S3FileSystem._put_file = fourth\n"
        f"publish(['a', 'b'], Layout({layout.root!r}), CONFIG)"
    )
    assert killed.wait() == -signal.SIGKILL
    assert any("token_dataset/v=" in key for key in keys(layout.root))
    assert versions.versions(layout) == []
    with pytest.raises(FileNotFoundError, match="no published version"):
        read_manifest(layout.token_dataset)
    again = publish(["a", "b"], layout, CONFIG)
    verify(again)
    assert again.version == expected


def command(module: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"pipelines.publish.{module}", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_take_a_url(layout: Layout, encoded: Layout, tmp_path: Path) -> None:
    copy(encoded, layout)
    old = publish(["a", "b"], layout, CONFIG)
    shown = command("show", layout.token_dataset)
    assert f"version {old.version}" in shown
    assert "deduped_pairs" in shown
    listed = tmp_path / "takedown.txt"
    listed.write_text("http://example.org/3.png\n")
    assert "2 rows removed" in command("takedown", str(listed), "--data-root", layout.root)
    new = read_manifest(layout.token_dataset)
    verify(new)
    assert "0 rows added, 2 removed" in command("diff", old.directory, new.directory)
    assert "removed" in command("remove", "--data-root", layout.root, f"v={old.version}")
    assert keys(old.directory) == set()
    assert versions.versions(layout) == [new.directory]


class NoisyCodes(MeanColour):
    """Codes that no compression makes small, so that a file is far larger than its footer."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        shape = (len(images), self.grid, self.grid)
        seed = int.from_bytes(images.tobytes()[:8], "little")
        return np.random.default_rng(seed).integers(0, self.vocabulary, shape, np.uint16)


def requests(root: str) -> list[tuple[str, str, int]]:
    """Grows with each request of this process: operation, key, bytes asked for (-1: all)."""
    made: list[tuple[str, str, int]] = []

    def record(model: Any, params: dict[str, Any], **_: Any) -> None:
        first, _, last = params["headers"].get("Range", "").removeprefix("bytes=").partition("-")
        size = int(last) - int(first) + 1 if last else -1
        path = unquote(urlsplit(params["url"]).path)
        made.append((model.name, path.removeprefix(f"/{BUCKET}/"), size))

    fs, _ = storage.filesystem(root)
    fs.s3.meta.events.register("before-call.s3", record)
    return made


def test_a_takedown_copies_what_it_does_not_touch_inside_the_store(
    layout: Layout, tmp_path: Path
) -> None:
    local = Layout(str(tmp_path / "data"))
    codes = NoisyCodes(image_size=64, grid=64, vocabulary=8192)
    encoded_batches.build(tmp_path / "data", codes)
    copy(local, layout)
    old = publish(["a", "b"], layout, CONFIG)
    listed = tmp_path / "takedown.txt"
    listed.write_text("http://example.org/3.png\n")
    made = requests(layout.root)
    done = take_down(layout, read_takedown(str(listed)))
    new = done.manifest
    assert 0 < done.files < done.files_in_all
    written = {"PutObject", "CreateMultipartUpload", "UploadPart", "CopyObject"}

    def key(directory: str, file: PublishedFile) -> str:
        return join(directory, file.path).removeprefix(f"s3://{BUCKET}/")

    # The page for tools is written again, here to the same words.
    shared = {f for f in old.files if f in new.files and f.path != versions.CROISSANT}
    assert {"tokenizer.json", *new.samples} < {file.path for file in shared}
    for file in shared:
        target = key(new.directory, file)
        assert [name for name, at, _ in made if at == target and name in written] == ["CopyObject"]
    # Who asks for a footer is given 64 KiB.
    large = [file for file in shared & set(old.token_files) if file.bytes > 1 << 18]
    assert large
    for file in large:
        places = (key(old.directory, file), key(new.directory, file))
        read = [size for name, at, size in made if at in places and name == "GetObject"]
        assert -1 not in read
        assert sum(read) < file.bytes
    for file in set(new.files) - shared:
        target = key(new.directory, file)
        assert [name for name, at, _ in made if at == target and name in written] == ["PutObject"]
    verify(new)
    publish(["a", "b"], local, CONFIG)
    assert take_down(local, read_takedown(str(listed))).manifest.version == new.version


@pytest.mark.slow
def test_a_killed_training_goes_on_elsewhere(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(output: str, cache: str) -> "subprocess.Popen[str]":
        monkeypatch.setenv("DALLE_MODEL_CACHE", str(tmp_path / cache))
        words = ("--recipe", tiny_training.NAME, "--pairs", pairs, "--output", output)
        words += ("--updates", "12")
        return tiny_training.start("training.train_dvae", *words)

    write_batch(layout, "a", range(60))
    pairs, model = layout.dataset("deduped_pairs", "a"), layout.model("dvae")
    never_killed = train(str(tmp_path / "dvae"), "none")
    assert never_killed.wait() == 0
    killed = train(model, "here")
    while len([key for key in keys(model) if key.endswith("state.json")]) < 2:
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert "final/_SUCCESS" not in keys(model)

    resumed = train(model, "elsewhere")
    said, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert "going on from update" in said
    weights = "final/model.safetensors"
    assert sha256(join(model, weights)) == sha256(str(tmp_path / "dvae" / weights))
    assert {"metrics.jsonl", "reconstructions.png", "final/_SUCCESS"} <= keys(model)
    assert not any(key.startswith("checkpoints/") for key in keys(model))
    # The machine that was left behind takes the store's word.
    assert "is up to date" in train(model, "here").communicate()[0]
    storage.remove(join(model, "final"), recursive=True)
    assert "is up to date" not in train(model, "here").communicate()[0]
    assert "final/_SUCCESS" in keys(model)


@pytest.mark.slow
def test_the_whole_graph_builds_the_same_version(
    s3: dict[str, str], layout: Layout, finished_site: FinishedSite, tmp_path: Path
) -> None:
    site = make_site(tmp_path, updates=2)
    # The pairs' URLs hold the port.
    port = finished_site.environment["DALLE_DEMO_PORT"]
    site.environment.update(
        s3,
        DALLE_DATA_ROOT=layout.root,
        DALLE_MODEL_CACHE=str(tmp_path / "models"),
        DALLE_DEMO_PORT=port,
    )
    done = run_demo(site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not site.data.exists()
    here, there = Layout(str(finished_site.data)), layout
    for name in ("image_text_candidates", "fetched_pairs", "deduped_pairs", "token_grids"):
        found = [ledger.require_success(where.dataset(name, "demo")) for where in (here, there)]
        assert found[0].content == found[1].content, name
    published = read_manifest(there.token_dataset)
    verify(published)
    assert published.version == read_manifest(here.token_dataset).version
    for name in ("dvae", "dalle"):
        weights = join("final", "model.safetensors")
        assert sha256(join(here.model(name), weights)) == sha256(join(there.model(name), weights))
    assert "samples.png" in keys(there.samples)
    assert "evaluation.json" in keys(there.evaluation)
    assert sum(1 for _ in parquet.read_batches(published.url(published.token_files[0]))) > 0
