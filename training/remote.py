"""Models below a data root that is no local disk: a local copy, and the object store's.

Training programs work on local directories. A URL stands for a directory below DALLE_MODEL_CACHE,
one to one, so that a path tells where its original is; every function here does nothing for any
other path. `final/` and each checkpoint appear in the store file by file with the marker last, and
here by one rename.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipelines import storage
from pipelines.layout import join
from pipelines.locks import FileLock
from training.checkpoints import atomic_directory
from training.errors import InputError

# Of `final/` and of a checkpoint; the training that writes either writes this file last.
_MARKERS = (atomic_directory.SUCCESS, "state.json")
# In a directory: what it was in the store when it was last the same there and here.
_RECORD = ".remote.json"
_WAIT_S = 3600.0
_TRIES = 3

Stamps = Mapping[str, tuple[int | None, str]]


def _cache() -> Path:
    default = Path.home() / ".cache" / "dalle-graph" / "models"
    return Path(os.environ.get("DALLE_MODEL_CACHE") or default).absolute()


def local(place: str) -> Path:
    """The directory where programs find what lies at a path or URL; nothing is copied yet."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return Path(place)
    if scheme in LocalFileSystem.protocol:
        return Path(LocalFileSystem._strip_protocol(place))
    return _cache().joinpath(scheme, *rest.strip("/").split("/"))


def origin(path: Path) -> str | None:
    """The URL that a path stands for; None if it is a local one."""
    if not path.is_relative_to(_cache()):
        return None
    scheme, *rest = path.relative_to(_cache()).parts or ("",)
    return f"{scheme}://{'/'.join(rest)}" if rest else None


def pull(directory: Path) -> None:
    """Make `final/` or a checkpoint the same here and in the store.

    What was made here and not yet uploaded to its end, since its program was killed, is uploaded,
    unless somebody has put a whole one there meanwhile; else the store is right.

    Raises:
        InputError: if somebody goes on replacing it while it is read.
    """
    url = origin(directory)
    if url is not None:
        with _alone(_output(directory)):
            _same(directory, url, storage.tree(url))


def pull_run(output: Path) -> None:
    """`pull` all of a training: `final/`, the checkpoints, and the files beside what is newer."""
    url = origin(output)
    if url is None:
        return
    with _alone(output):
        there = storage.tree(url)
        here = [*output.glob("final"), *output.glob("checkpoints/update-*")]
        units = {*map(_unit, there), *(d.relative_to(output).as_posix() for d in here)}
        newer = [
            _same(output / unit, join(url, unit), _below(there, unit))
            for unit in sorted(units - {""})
        ]
        if any(newer):
            for name in there:
                if not _unit(name):
                    _download(join(url, name), output / name)


def pull_file(path: Path) -> Path:
    """The path, after one of a program's other files was downloaded if the store has it."""
    url = origin(path)
    if url is not None and storage.exists(url):
        _download(url, path)
    return path


def push(directory: Path) -> None:
    """Put `final/` or a checkpoint into the store, its marker last."""
    url = origin(directory)
    if url is not None:
        with _alone(_output(directory)):
            _upload(directory, url)


def push_files(output: Path) -> None:
    """Put a program's other files into the store: figures, pictures, metrics."""
    url = origin(output)
    if url is None:
        return
    known = _record(output) or {}
    found: dict[str, tuple[int | None, str]] = {}
    # Last, what describes the others.
    for path in sorted(_files(output), key=lambda path: path.suffix == ".json"):
        name, status = path.relative_to(output).as_posix(), path.stat()
        if not _unit(name):
            found[name] = status.st_size, str(status.st_mtime_ns)
            if known.get(name) != found[name]:
                _put(path, join(url, name))
    _write_record(output, found)


def remove(directory: Path) -> None:
    """Remove the store's copy of a directory; call it before the local one goes."""
    url = origin(directory)
    if url is not None:
        for name in storage.tree(url):
            if name.endswith(_MARKERS):
                storage.remove(join(url, name))
        storage.remove(url, recursive=True)


def forget(directory: Path) -> None:
    """Remove the local copy of a finished model or checkpoint that lies in the store."""
    if origin(directory) is not None:
        with _alone(_output(directory)):
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Be the only process of this machine that copies this model."""
    name = hashlib.sha256(str(output).encode()).hexdigest()
    lock = FileLock(
        str(_cache() / ".locks" / name), f"another process copies {origin(output)}", _WAIT_S
    )
    try:
        yield
    finally:
        lock.release()


def _same(here: Path, url: str, there: Stamps) -> bool:
    """Make a directory the same in both places; whether it was downloaded."""
    known = _record(here)
    if not _is_complete(there):
        if here.exists() and known is None:
            _upload(here, url)
        else:
            shutil.rmtree(here, ignore_errors=True)
    elif known != there:
        _replace(here, url, there)
        return True
    return False


def _replace(here: Path, url: str, there: Stamps) -> None:
    for _ in range(_TRIES):
        if not _is_complete(there):
            break
        temporary = atomic_directory.begin(here)
        with contextlib.suppress(FileNotFoundError):
            for name in there:
                _download(join(url, name), temporary / name)
        before, there = there, storage.tree(url)
        if there == before:
            _write_record(temporary, there)
            atomic_directory.commit(temporary, here)
            return
    raise InputError(f"{url} is being replaced; start again when that has ended")


def _upload(here: Path, url: str) -> None:
    names = [path.relative_to(here).as_posix() for path in _files(here)]
    for old in storage.tree(url):
        if old in _MARKERS or old not in names:
            storage.remove(join(url, old))
    for name in sorted(names, key=lambda name: name in _MARKERS):
        _put(here / name, join(url, name))
    _write_record(here, storage.tree(url))


def _is_complete(names: Stamps) -> bool:
    return any(marker in names for marker in _MARKERS)


def _output(directory: Path) -> Path:
    """The training's directory, of its `final/` or of one of its checkpoints."""
    return directory.parent if _unit(f"{directory.name}/") else directory.parent.parent


def _unit(name: str) -> str:
    """The directory that appears as one, of a path below a training's; empty for other files."""
    first, _, rest = name.partition("/")
    if first == "final":
        return first
    checkpoint, inside, _ = rest.partition("/")
    return f"{first}/{checkpoint}" if first == "checkpoints" and inside else ""


def _below(there: Stamps, unit: str) -> Stamps:
    return {n[len(unit) + 1 :]: stamp for n, stamp in there.items() if n.startswith(f"{unit}/")}


def _files(directory: Path) -> list[Path]:
    """Files below a directory; hidden ones are being written, or ours."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )


def _put(path: Path, url: str) -> None:
    fs, there = storage.filesystem(url)
    fs.put_file(str(path), there)


def _download(url: str, path: Path) -> None:
    fs, there = storage.filesystem(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    fs.get_file(there, str(temporary))
    temporary.replace(path)


def _record(directory: Path) -> Stamps | None:
    try:
        found = json.loads((directory / _RECORD).read_text())
    except FileNotFoundError:
        return None
    return {name: (size, version) for name, (size, version) in found.items()}


def _write_record(directory: Path, stamps: Stamps) -> None:
    storage.write_json(str(directory / _RECORD), stamps)
