"""Files under any fsspec URL: atomic writes, JSON, listings.

On a local disk a file appears under its name only when it is complete (temporary name, fsync,
rename). Object stores show an object only when its upload is committed, which is done last.
"""

import contextlib
import errno
import json
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL, and the path inside it."""
    fs, path = fsspec.core.url_to_fs(url)
    # fsspec keeps listings of object stores, to which other processes write.
    fs.invalidate_cache()
    return fs, path


@contextlib.contextmanager
def atomic_output(url: str) -> Iterator[IO[bytes]]:
    """Open `url` for writing; it appears whole when the block ends well, else not at all."""
    fs, path = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        yield from _committed(fs.open(path, "wb", autocommit=False))
        return
    os.makedirs(posixpath.dirname(path), exist_ok=True)
    temporary = f"{posixpath.dirname(path)}/.{posixpath.basename(path)}.{uuid.uuid4().hex}.tmp"
    try:
        with naming(path), open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let the error of a full disk say where, which the system's own does not."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        advice = "no space left; free some and start again, what is finished is kept"
        raise OSError(errno.ENOSPC, advice, path) from error


def _committed(upload: Any) -> Iterator[IO[bytes]]:
    """An object store's upload, which would show what it has when it is closed after an error."""
    try:
        yield upload
        upload.close()
    except BaseException:
        with contextlib.suppress(Exception):
            upload.close()
        upload.discard()
        raise
    upload.commit()


def exists(url: str) -> bool:
    """Whether a file or directory is there."""
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """The whole file.

    Raises:
        FileNotFoundError: if it is not there.
    """
    fs, path = filesystem(url)
    return bytes(fs.cat_file(path))


def write_bytes(url: str, data: bytes) -> None:
    """Write the whole file atomically."""
    fs, path = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        # One request, where a stream that can be discarded needs three.
        fs.pipe_file(path, data)
        return
    with atomic_output(url) as stream:
        stream.write(data)


def read_json(url: str) -> Any:
    """Parse a JSON file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not JSON, naming the file.
    """
    try:
        return json.loads(read_bytes(url))
    except json.JSONDecodeError as error:
        raise ValueError(f"{url} is not valid JSON: {error}") from error


def write_json(url: str, value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values give equal bytes."""
    write_bytes(url, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def list_files(directory: str, suffix: str = "") -> list[str]:
    """URLs of the complete files directly in `directory`, sorted; empty if it is not there."""
    fs, path = filesystem(directory)
    if not fs.exists(path):
        return []
    names = (posixpath.basename(found) for found in fs.ls(path, detail=False))
    kept = sorted(n for n in names if n.endswith(suffix) and not n.startswith("."))
    return [f"{directory.rstrip('/')}/{name}" for name in kept]


def sizes(directory: str, suffix: str = "") -> dict[str, int]:
    """Name and bytes of the complete files directly in `directory`; empty if it is not there."""
    fs, path = filesystem(directory)
    if not fs.exists(path):
        return {}
    found = {posixpath.basename(entry["name"]): entry for entry in fs.ls(path, detail=True)}
    return {
        name: int(entry["size"])
        for name, entry in sorted(found.items())
        if name.endswith(suffix) and not name.startswith(".") and entry["type"] == "file"
    }


def matching(path: str) -> list[str]:
    """URLs of the files that a path or glob names, sorted; empty if there is none."""
    fs, inside = filesystem(path)
    if "*" in path and not fs.exists(inside):
        local = isinstance(fs, LocalFileSystem)
        return sorted(f if local else fs.unstrip_protocol(f) for f in fs.glob(inside))
    return [path] if fs.isfile(inside) else []


def stamp(url: str) -> tuple[int | None, str]:
    """Size and version of a file, its modification time where the storage knows no better."""
    fs, path = filesystem(url)
    return _stamp(fs.info(path))


def _stamp(info: Mapping[str, Any]) -> tuple[int | None, str]:
    version = next((str(info[key]) for key in ("ETag", "md5Hash", "mtime") if key in info), "")
    return info.get("size"), version


def tree(directory: str) -> dict[str, tuple[int | None, str]]:
    """`stamp` of every file below `directory`, by its path from there.

    Raises:
        ValueError: if a store has a name that would lead elsewhere on a disk.
    """
    fs, path = filesystem(directory)
    start = len(path.rstrip("/")) + 1
    # A directory whose first file appears while it is listed is given itself.
    found = {n: i for n, i in fs.find(path, detail=True).items() if i.get("type") != "directory"}
    return {require_inside(name[start:], directory): _stamp(info) for name, info in found.items()}


def require_inside(name: str, directory: str) -> str:
    """The path of a file, which stays below the directory that names it.

    Raises:
        ValueError: if it does not.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{directory} names a file {name!r}, which is not below it; remove it")
    return name


def put_in_place(built: str, url: str, last: str, shared: Mapping[str, str] | None = None) -> None:
    """Let a local directory appear at a URL, with the file `last` as what makes it complete.

    On a local disk, where it must be the same one, by one rename, and what lay there is gone; in a
    store file by file, that one last.

    Args:
        built: the local directory.
        url: where it goes.
        last: path of a file in it.
        shared: more files, by their path in the directory: URLs in the same storage. A local disk
            links them, so that they take no room; a store copies them itself, so that none of
            their bytes passes through this machine.
    """
    fs, path = filesystem(url)
    sources = {name: filesystem(source)[1] for name, source in (shared or {}).items()}
    if isinstance(fs, LocalFileSystem):
        for name, source in sources.items():
            os.makedirs(posixpath.dirname(f"{built}/{name}"), exist_ok=True)
            os.link(source, f"{built}/{name}")
        shutil.rmtree(path, ignore_errors=True)
        os.rename(built, path)
        return
    for name, source in sources.items():
        fs.cp_file(source, f"{path}/{name}")
    for name in sorted(tree(built), key=lambda name: name == last):
        fs.put_file(f"{built}/{name}", f"{path}/{name}")


def remove(url: str, *, recursive: bool = False) -> None:
    """Remove a file or directory; nothing happens if it is not there."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=recursive)
