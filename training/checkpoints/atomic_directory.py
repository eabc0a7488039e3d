"""Directories that appear whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SUCCESS = "_SUCCESS"


def begin(target: Path) -> Path:
    """A hidden directory beside `target` to write into; torn ones of killed programs go."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    return temporary


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file of dense tensors in host memory.

    Raises:
        OSError: if the disk does not take it.
    """
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def sync(files: list[Path]) -> None:
    """Force files to the disk."""
    for path in files:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def commit(temporary: Path, target: Path) -> None:
    """Show the complete directory under its name; what was there is replaced."""
    sync(list(temporary.iterdir()))
    if target.exists():
        # Two renames: a kill between them leaves no `target`, and the run is done again from
        # the newest checkpoint, but a half-written one is never taken for whole.
        old = target.parent / f".{target.name}.old"
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.rename(target)


def write(target: Path, tensors: Mapping[str, Mapping[str, Tensor]], **texts: str) -> None:
    """Write `NAME.safetensors` and text files.

    Args:
        target: directory; what was there is replaced.
        tensors: one file a group.
        texts: content by file name, `_json` standing for `.json`.
    """
    temporary = begin(target)
    for name, group in tensors.items():
        held = {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}
        write_tensors(temporary / f"{name}.safetensors", held)
    for name, text in texts.items():
        (temporary / name.replace("_json", ".json")).write_text(text)
    commit(temporary, target)
