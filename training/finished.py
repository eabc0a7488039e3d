"""A finished model: `final/` with weights, configuration, summary and the success marker."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from torch import nn

from training import remote
from training.checkpoints import atomic_directory
from training.config import DVAEConfig
from training.errors import InputError

FINAL = "final"
REPAIR = "copy it again whole, or train again"


class ModelError(InputError):
    """A model directory is not what was asked for."""


def write(
    output: Path,
    fingerprint: str,
    model: nn.Module,
    config: Any,
    summary: Mapping[str, Any],
    **texts: str,
) -> None:
    """Write `output/final` atomically; in an object store, after the files beside it.

    Args:
        output: directory of the model.
        fingerprint: of recipe and data.
        model: its parameters are stored.
        config: a frozen dataclass, or a mapping of names to such or to plain values.
        summary: figures about the model.
        texts: further files by name, `_json` standing for `.json`.
    """
    atomic_directory.write(
        output / FINAL,
        {"model": dict(model.named_parameters())},
        config_json=json.dumps(_plain(config), indent=1, sort_keys=True),
        summary_json=json.dumps(dict(summary), indent=1, sort_keys=True),
        **texts,
        **{atomic_directory.SUCCESS: json.dumps({"fingerprint": fingerprint})},
    )
    remote.push_files(output)
    remote.push(output / FINAL)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def trained_on_pairs(pairs: Iterable[str], contents: Iterable[str], code: str) -> dict[str, Any]:
    """What a model and its checkpoints say of their origin, if that are directories of pairs.

    Args:
        pairs: directories `deduped_pairs/batch=...`.
        contents: hash of each one's data.
        code: version of the training program.
    """
    names = [PurePath(directory).name.removeprefix("batch=") for directory in pairs]
    found = dict(sorted(zip(names, contents, strict=True)))
    return {"batches": list(found), "contents": found, "code_version": code}


def is_current(output: Path, fingerprint: str) -> bool:
    """Whether `output` already holds the model of this fingerprint."""
    remote.pull(output / FINAL)
    marker = output / FINAL / atomic_directory.SUCCESS
    return marker.exists() and json.loads(marker.read_text())["fingerprint"] == fingerprint


def require(output: Path) -> Path:
    """`output/final`, complete.

    Raises:
        ModelError: if there is no finished model.
    """
    final = output / FINAL
    remote.pull(final)
    if not (final / atomic_directory.SUCCESS).exists():
        place = remote.origin(output) or output
        raise ModelError(f"{place} holds no finished model; train it first")
    return final


def require_file(output: Path, name: str) -> Path:
    """A file of a finished model.

    Raises:
        ModelError: if there is no finished model, or the file is missing.
    """
    path = require(output) / name
    if not path.is_file():
        raise ModelError(f"{path} is missing; {REPAIR}")
    return path


def sha256(output: Path) -> str:
    """SHA-256 of a finished model's weights, in hex."""
    with open(require_file(output, "model.safetensors"), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(output: Path, name: str) -> dict[str, Any]:
    """A JSON file of a finished model.

    Raises:
        ModelError: if there is no finished model, or the file is missing or damaged.
    """
    path = require_file(output, name)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no names and values")
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}; {REPAIR}") from error
    return content


def read_config(output: Path) -> dict[str, Any]:
    """The stored configuration."""
    return _read_json(output, "config.json")


def read_summary(output: Path) -> dict[str, Any]:
    """The stored figures and facts."""
    return _read_json(output, "summary.json")


def whole_numbers(output: Path, found: Any, names: Iterable[str]) -> dict[str, int]:
    """A part of a model's configuration, which must hold these names, no others, and be positive.

    Raises:
        ModelError: if one is missing, unknown or no such number.
    """
    numbers, wanted = found if isinstance(found, dict) else {}, set(names)
    faults = {
        "lacks": wanted - numbers.keys(),
        "has the unknown": numbers.keys() - wanted,
        "has no positive whole number in": {
            name for name in wanted & numbers.keys() if type(n := numbers[name]) is not int or n < 1
        },
    }
    told = [f"{fault} {', '.join(sorted(which))}" for fault, which in faults.items() if which]
    if told:
        raise ModelError(f"{output / FINAL / 'config.json'} {' and '.join(told)}; {REPAIR}")
    return numbers


def dvae_config(output: Path) -> DVAEConfig:
    """Configuration of a finished dVAE.

    Raises:
        ModelError: if it is another model's, or damaged.
    """
    found, names = read_config(output), [field.name for field in dataclasses.fields(DVAEConfig)]
    if found.keys().isdisjoint(names):
        raise ModelError(f"{output} does not hold a dVAE; name the directory of one")
    numbers = whole_numbers(output, found, names)
    try:
        return DVAEConfig(**numbers)
    except ValueError as error:
        raise ModelError(f"{output} does not hold a dVAE: {error}; {REPAIR}") from error
