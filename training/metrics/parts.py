"""Numbered files of arrays that make up long work: each is made once, whatever was killed."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipelines import storage
from training.errors import InputError

_PLAN = "plan.json"
Array = npt.NDArray[Any]


def _plan(path: Path) -> Any:
    try:
        return storage.read_json(str(path)) if path.exists() else None
    except ValueError as error:
        raise InputError(f"{error}; delete {path.parent} and start again") from error


class Parts:
    """Parts of one plan in a directory.

    Args:
        directory: holds `plan.json` and the parts; parts of another plan are removed.
        plan: everything that the parts depend on, as plain values.

    Raises:
        InputError: if `plan.json` is damaged.
    """

    def __init__(self, directory: Path, plan: Mapping[str, str | int | float]):
        self.directory = directory
        path = directory / _PLAN
        if directory.exists() and _plan(path) != plan:
            # The old plan goes first: what is left of an interrupted removal belongs to none.
            path.unlink(missing_ok=True)
            shutil.rmtree(directory)
            print(f"{directory} was of another model, caption or setting; made again", flush=True)
        storage.write_json(str(path), dict(plan))

    def get(self, number: int, make: Callable[[], Array]) -> Array:
        """A part, read or made now.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.directory / f"part-{number:05d}.safetensors"
        if not path.exists():
            storage.write_bytes(str(path), save({"part": np.ascontiguousarray(make())}))
        try:
            return load(path.read_bytes())["part"]
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it and start again") from error
