"""Promoted versions: transformer and dVAE as they were finished, kept until they are removed.

models/promoted/v=<hash over the files>/
  dalle/final/     as `models/dalle/final`, so `--dalle .../dalle` takes it
  dvae/final/
  _SUCCESS         written last: the SHA-256 of every file
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipelines import ledger, storage
from pipelines.layout import Layout, join
from pipelines.ledger import SUCCESS
from pipelines.locks import InUseError, only_writer
from pipelines.publish.manifest import read_manifest, sha256
from training.promotion import log
from training.promotion.log import Model, PromotionError

DALLE, DVAE = "dalle", "dvae"
_PREFIX = "v="
_CHUNK = 1 << 22
_WEIGHTS = "final/model.safetensors"


def directory(layout: Layout, version: str) -> str:
    """Where a version lies; `version` with or without `v=`."""
    return join(layout.promoted, f"{_PREFIX}{version.removeprefix(_PREFIX)}")


def kept(layout: Layout) -> list[str]:
    """Names of the complete versions."""
    whole = [url for url in _named(layout) if storage.exists(join(url, SUCCESS))]
    return [url.rsplit("/", 1)[1].removeprefix(_PREFIX) for url in whole]


def _named(layout: Layout) -> list[str]:
    """Directories of versions, also of those that a kill left incomplete."""
    found = storage.list_files(layout.promoted)
    return [url for url in found if url.rsplit("/", 1)[1].startswith(_PREFIX)]


def candidate(layout: Layout) -> Model:
    """The finished transformer and dVAE of the data root, which a promotion would keep.

    Raises:
        PromotionError: if one is not finished, or they do not belong together.
        FileNotFoundError: if the version it was trained on is not below the data root.
    """
    for name in (DALLE, DVAE):
        if not storage.exists(join(layout.model(name), "final", SUCCESS)):
            raise PromotionError(f"{layout.model(name)} holds no finished model; train it first")
    files = {path: sha256(url) for path, url in _files(layout).items()}
    said = storage.read_json(join(layout.model(DALLE), "final", "summary.json"))
    trained_on = read_manifest(join(layout.token_dataset, f"{_PREFIX}{said['dataset']}"))
    dvae = files[f"{DVAE}/{_WEIGHTS}"]
    if dvae != trained_on.dvae_sha256:
        raise PromotionError(
            f"{layout.model(DALLE)} draws codes of the dVAE {trained_on.dvae_sha256[:12]}, and "
            f"{layout.model(DVAE)} holds {dvae[:12]}; encode, publish and train with this one"
        )
    return Model(
        version=ledger.content_hash(files),
        dalle_sha256=files[f"{DALLE}/{_WEIGHTS}"],
        dvae_sha256=dvae,
        tokenizer_sha256=trained_on.tokenizer_sha256,
        dataset=trained_on.version,
        rows=trained_on.rows,
        recipe=str(said["recipe"]),
        code_version=str(said.get("code_version", "")),
        warm_start=str(said.get("warm_start", "")),
    )


def keep(layout: Layout, model: Model) -> None:
    """Copy the candidate to its version, unless it is there.

    Raises:
        PromotionError: if the files are no longer those of `model`.
    """
    target = directory(layout, model.version)
    if storage.exists(join(target, SUCCESS)):
        return
    fs, path = storage.filesystem(layout.promoted)
    here = path if isinstance(fs, LocalFileSystem) else None
    # What has the name of a version is that version: other bytes never get so far.
    with tempfile.TemporaryDirectory(prefix=f".{_PREFIX}", dir=here) as work:
        built = f"{work}/version"
        files = {name: _copy(url, f"{built}/{name}") for name, url in _files(layout).items()}
        if ledger.content_hash(files) != model.version:
            raise PromotionError(
                f"{layout.models} changed since the model was compared; compare it again"
            )
        storage.write_json(f"{built}/{SUCCESS}", {"files": files})
        storage.put_in_place(built, target, SUCCESS)


def verify(layout: Layout, version: str) -> None:
    """Check every file of a version.

    Raises:
        PromotionError: if the version is not there, or a file is not what was kept.
    """
    target = directory(layout, version)
    if not storage.exists(join(target, SUCCESS)):
        known = ", ".join(f"{_PREFIX}{name}" for name in kept(layout))
        raise PromotionError(f"{target} is no promoted version; there are: {known or 'none'}")
    for name, expected in storage.read_json(join(target, SUCCESS))["files"].items():
        url = join(target, name)
        if not storage.exists(url) or sha256(url) != expected:
            raise PromotionError(f"{url} is not what was kept; do not use this version")


def remove(layout: Layout, version: str) -> None:
    """Delete a version, or what is left of one.

    Raises:
        PromotionError: if it is not there, is the promoted one, or is what that one began with.
    """
    name = version.rsplit("/", 1)[-1].removeprefix(_PREFIX)
    if directory(layout, name) not in _named(layout):
        verify(layout, name)
    entries = log.history(layout)
    promoted = entries[-1].model if entries else None
    start = next((e.model for e in entries if e.model.version == name), None)
    if promoted is not None and promoted.version == name:
        raise PromotionError(f"v={name} is the promoted one; promote another one first")
    if promoted and start and promoted.warm_start == start.dalle_sha256:
        raise PromotionError(
            f"the training of the promoted one began with v={name}, and a launch of it again looks "
            "there; promote another one first"
        )
    marker = join(directory(layout, name), SUCCESS)
    found = storage.read_bytes(marker) if storage.exists(marker) else b""
    storage.remove(marker)
    # No lock spans machines: somebody may have gone back to it until now.
    if found and (moved := log.current(layout)) and moved.model.version == name:
        storage.write_bytes(marker, found)
        raise PromotionError(f"v={name} was promoted at the same time; it stays")
    storage.remove(directory(layout, name), recursive=True)


def warm_start(layout: Layout, dataset: str) -> str | None:
    """Directory of the transformer that a training on a version of the dataset begins with.

    It is the promoted one; if that was trained on this very version, it is what it began with
    itself, so that the same training launched again is found finished. None before the first
    promotion, or if the promoted one began with random weights.

    Raises:
        PromotionError: if that version was removed.
    """
    entries = log.history(layout)
    if not entries:
        return None
    start = entries[-1].model
    if start.dataset == dataset:
        if not start.warm_start:
            return None
        earlier = (e.model for e in entries if e.model.dalle_sha256 == start.warm_start)
        start = next(earlier, start)
    found = directory(layout, start.version)
    if start.version not in kept(layout):
        raise PromotionError(f"{found} was removed, and a training was to begin with it")
    return join(found, DALLE)


@contextlib.contextmanager
def only_promotion(layout: Layout) -> Iterator[None]:
    """Be the only one on this machine who changes the promoted versions; rests of the killed go.

    Raises:
        PromotionError: if another process is at it.
    """
    try:
        with only_writer(layout.promoted):
            fs, path = storage.filesystem(layout.promoted)
            if isinstance(fs, LocalFileSystem):
                for rest in Path(path).glob(f".{_PREFIX}*"):
                    shutil.rmtree(rest)
            yield
    except InUseError as error:
        raise PromotionError(str(error)) from error


def _files(layout: Layout) -> dict[str, str]:
    """URLs of the candidate's files by their path in a version."""
    return {
        f"{name}/final/{url.rsplit('/', 1)[1]}": url
        for name in (DALLE, DVAE)
        for url in storage.list_files(join(layout.model(name), "final"))
    }


def _copy(source: str, target: str) -> str:
    """SHA-256 of what was copied."""
    digest = hashlib.sha256()
    fs, path = storage.filesystem(source)
    with fs.open(path, "rb") as stream, storage.atomic_output(target) as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
