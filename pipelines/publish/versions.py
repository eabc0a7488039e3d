"""Where versions are built, how they appear, and which one is current."""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines import ledger, parquet, schemas, storage
from pipelines.contract import schema_problems
from pipelines.layout import Layout, join
from pipelines.ledger import Finished, Funnel
from pipelines.publish import card, croissant
from pipelines.publish.manifest import (
    CURRENT,
    MANIFEST,
    METADATA,
    TOKENS,
    DatasetError,
    Level,
    Manifest,
    PublishedFile,
    read_manifest,
    sha256,
    verify,
)
from pipelines.schemas import Stage

CARD = "README.md"
CROISSANT = "croissant.json"
REJECTS = "part-00000.parquet"

_BUILDING = ".publishing"
_PREFIX = "v="


@contextlib.contextmanager
def workspace(directory: str) -> Iterator[str]:
    """An empty local directory; on a local disk below `directory`, one publication at a time."""
    fs, path = storage.filesystem(directory)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory() as temporary, storage.naming(temporary):
            yield temporary
        return
    with only_publication(directory):
        work = f"{path}/{_BUILDING}"
        # Whoever worked here before is dead, or the lock would not be ours.
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        try:
            with storage.naming(work):
                yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def only_publication(directory: str) -> Iterator[None]:
    """Wait until nobody else changes the versions on this local disk; object stores have no lock.

    The lock is the system's, which releases it when its process ends.
    """
    fs, path = storage.filesystem(directory)
    if not isinstance(fs, LocalFileSystem):
        yield
        return
    os.makedirs(path, exist_ok=True)
    with open(f"{path}/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def seal(
    built: str,
    manifest: Manifest,
    rejects: Iterable[pa.RecordBatch],
    layout: Layout,
    shared: Mapping[str, str] | None = None,
) -> Manifest:
    """Add card, Croissant file, manifest and marker to a version, and put it in its place.

    Args:
        built: local directory with the files that `manifest` lists, but for those of `shared`.
        manifest: with `version` empty; the hash over all files becomes its name.
        rejects: the rows that are not in it.
        layout: of the data root.
        shared: URLs of the files that another version has already, by their path.

    Returns:
        The manifest as a reader finds it; the version is not yet the current one.
    """
    shared = shared or {}
    tables = {
        name: parquet.read_schema(shared.get(files[0].path, f"{built}/{files[0].path}"))
        for name, files in ((TOKENS, manifest.token_files), (METADATA, manifest.metadata_files))
    }
    described = {
        CARD: card.render(manifest, tables[TOKENS]).encode(),
        CROISSANT: croissant.render(manifest, tables).encode(),
    }
    files = [*manifest.files, *(write_file(built, name, text) for name, text in described.items())]
    version = ledger.content_hash({file.path: file.sha256 for file in files})
    manifest = dataclasses.replace(manifest, version=version, files=tuple(files))
    storage.write_json(f"{built}/{MANIFEST}", manifest.to_json())
    dropped = sum(manifest.dropped.values())
    finished = Finished(
        dataset="token_dataset",
        fingerprint=manifest.configuration,
        content=version,
        rows=manifest.rows,
        bytes=sum(file.bytes for file in files),
        funnel=Funnel(manifest.rows + dropped, manifest.rows, manifest.dropped),
    )
    ledger.write_success(built, finished)
    target = version_directory(layout, version)
    # Before the version: one that is there is never looked at again.
    parquet.write(join(layout.rejects(Stage.PUBLISH, version), REJECTS), rejects, schemas.REJECTS)
    if ledger.read_success(target) is None:
        storage.put_in_place(built, target, ledger.SUCCESS, shared)
    return read_manifest(target)


def write_file(built: str, path: str, data: bytes) -> PublishedFile:
    """Write a file of a version that is being built."""
    url = f"{built}/{path}"
    storage.write_bytes(url, data)
    return PublishedFile(path, 0, len(data), sha256(url))


def make_current(layout: Layout, manifest: Manifest, shared: Collection[str] = ()) -> None:
    """Let `CURRENT` name a version, if its files are whole and keep the contract.

    Args:
        layout: of the data root.
        manifest: of the version.
        shared: paths of files that the current version has too. A store copied them itself, so
            there only their sizes are asked for: to hash them is to download them.

    Raises:
        DatasetError: if they do not; `CURRENT` stays as it is.
    """
    fs, _ = storage.filesystem(manifest.directory)
    _require_sound(manifest, () if isinstance(fs, LocalFileSystem) else shared)
    pointer = join(layout.token_dataset, CURRENT)
    line = f"{_PREFIX}{manifest.version}\n".encode()
    if not storage.exists(pointer) or storage.read_bytes(pointer) != line:
        storage.write_bytes(pointer, line)


def _require_sound(manifest: Manifest, copied: Collection[str]) -> None:
    tables = {TOKENS: schemas.token_grids(manifest.grid), METADATA: schemas.TOKEN_METADATA}
    try:
        verify(manifest, Level.SIZES)
        written = tuple(file for file in manifest.files if file.path not in copied)
        verify(dataclasses.replace(manifest, files=written))
        for name, schema in tables.items():
            for problem in schema_problems(join(manifest.directory, name), schema):
                raise DatasetError(problem)
    except DatasetError as error:
        marker = join(manifest.directory, ledger.SUCCESS)
        raise DatasetError(
            f"version {manifest.version} does not become the current one ({error}): remove "
            f"{marker} and publish again, which builds it anew"
        ) from error


def current(layout: Layout) -> str | None:
    """The version that `CURRENT` names, or None before the first publication."""
    pointer = join(layout.token_dataset, CURRENT)
    if not storage.exists(pointer):
        return None
    return storage.read_bytes(pointer).decode().strip().removeprefix(_PREFIX)


def version_directory(layout: Layout, version: str) -> str:
    """Where a version lies; `version` with or without `v=`."""
    return join(layout.token_dataset, f"{_PREFIX}{version.removeprefix(_PREFIX)}")


def versions(layout: Layout) -> list[str]:
    """Directories of the complete versions, by name."""
    return [url for url in _named(layout) if ledger.read_success(url) is not None]


def unfinished(layout: Layout) -> list[str]:
    """Directories of those being put into a store, and of what a killed command left behind."""
    return [url for url in _named(layout) if ledger.read_success(url) is None]


def _named(layout: Layout) -> list[str]:
    found = storage.list_files(layout.token_dataset)
    return [url for url in found if url.rsplit("/", 1)[1].startswith(_PREFIX)]
