"""Captions, and the pictures that they belong to: what drawn pictures are compared with."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from training.dvae.images import centre_crop, to_tensor
from training.errors import InputError

# Pictures that are decoded together.
_TOGETHER = 64
T = TypeVar("T")


@dataclass(frozen=True)
class ReferenceSet:
    """Distinct captions with a picture each; a picture may belong to several.

    Attributes:
        key: begins the names of this set's figures and files; empty for the dataset's own.
        title: as the report says it.
        captions: each once, since equal captions draw equal pictures.
        names: of each caption's picture, as a reference index has them; or its uid.
        open: opens the pictures, each once, in the order in which their names begin to appear; as
            uint8 [n, 3, S, S].
        real: whether they are pictures; else they are reconstructions by the dVAE.
        sources: SHA-256 of the files that say which captions and pictures there are, by name.
    """

    key: str
    title: str
    captions: Sequence[str]
    names: Sequence[str]
    open: Callable[[], Iterator[Tensor]]
    real: bool = True
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Of figures and files."""
        return f"{self.key}_" if self.key else ""

    @functools.cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """Which of the opened pictures each caption has, [captions]."""
        found: dict[str, int] = {}
        return np.array([found.setdefault(name, len(found)) for name in self.names], np.int64)


def chosen(items: Iterable[T], seed: int, name: Callable[[T], str]) -> list[T]:
    """Items in an order drawn from the seed; the first n are a sample, and part of a larger one."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed} {name(item)}".encode()).digest())


def require_pictures(paths: Iterable[Path], source: str) -> None:
    """Check that the pictures of a list are there.

    Raises:
        InputError: if one is not.
    """
    folders: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in folders:
            found = path.parent.iterdir() if path.parent.is_dir() else ()
            folders[path.parent] = {entry.name for entry in found}
        if path.name not in folders[path.parent]:
            missing.append(path)
    if missing:
        raise InputError(
            f"{len(missing):,} pictures that {source} lists are not there, the first is "
            f"{missing[0]}; unpack all of them"
        )


def read_pictures(paths: Sequence[Path], size: int) -> Iterator[Tensor]:
    """Pictures of files as the models see them: short side to `size`, then the centre.

    The next ones are decoded while those before are in use.

    Args:
        paths: in the order that is wanted.
        size: side of the square in pixels.

    Raises:
        InputError: if a file cannot be read as a picture.
    """
    waiting: list[Future[npt.NDArray[np.uint8]]] = []
    rest = iter(paths)
    with ThreadPoolExecutor() as pool:
        while part := list(islice(rest, _TOGETHER)):
            begun = [pool.submit(_read, path, size) for path in part]
            if waiting:
                yield _together(waiting)
            waiting = begun
        if waiting:
            yield _together(waiting)


def _together(waiting: Sequence[Future[npt.NDArray[np.uint8]]]) -> Tensor:
    return to_tensor(np.stack([future.result() for future in waiting]))


def _read(path: Path, size: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as opened:
            return centre_crop(opened.convert("RGB"), size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read as a picture ({error}); unpack it again"
        ) from error
