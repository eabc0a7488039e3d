"""Checkpoints: safetensors and JSON in a directory that appears only when complete."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SUCCESS = "_SUCCESS"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run between two updates.

    Attributes:
        update: updates done.
        fingerprint: of the recipe and the data; another run's checkpoint is not resumed.
        tensors: groups of named tensors (model, ema, optimizer).
        state: plain JSON (data position, schedule state).
    """

    update: int
    fingerprint: str
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write_directory(
    target: Path, tensors: Mapping[str, Mapping[str, Tensor]], **texts: str
) -> None:
    """Write `NAME.safetensors` and text files so that `target` appears whole or not at all.

    Args:
        target: directory; what was there is replaced.
        tensors: one file a group.
        texts: content by file name, `_json` standing for `.json`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(stale)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    for name, group in tensors.items():
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}
        save_file(whole, temporary / f"{name}.safetensors")
    for name, text in texts.items():
        (temporary / name.replace("_json", ".json")).write_text(text)
    for path in temporary.iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    if target.exists():
        # Two renames: a kill between them leaves no `target`, and the run is done again from
        # the newest checkpoint, but a half-written one is never taken for whole.
        old = target.parent / f".{target.name}.old"
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.rename(target)


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Write `directory/update-N`, then remove all but the newest few."""
    state = {
        "update": checkpoint.update,
        "fingerprint": checkpoint.fingerprint,
        "state": dict(checkpoint.state),
    }
    target = directory / f"update-{checkpoint.update:09d}"
    write_directory(target, checkpoint.tensors, state_json=json.dumps(state, indent=1))
    for old in _complete(directory)[:-_KEPT]:
        shutil.rmtree(old)


def newest(directory: Path, fingerprint: str) -> Checkpoint | None:
    """The newest complete checkpoint of this very run, or None."""
    for path in reversed(_complete(directory)):
        state = json.loads((path / "state.json").read_text())
        if state["fingerprint"] == fingerprint:
            tensors = {p.stem: load_file(p) for p in sorted(path.glob("*.safetensors"))}
            return Checkpoint(state["update"], fingerprint, tensors, state["state"])
    return None


def clear(directory: Path) -> None:
    """Remove every checkpoint."""
    shutil.rmtree(directory, ignore_errors=True)


def _complete(directory: Path) -> list[Path]:
    return sorted(directory.glob("update-*"))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `PARAMETER/KEY`."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        by_parameter.setdefault(parameter_name, {})[key] = value
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found = by_parameter.get(names[parameter], {})
            # Fused optimisers pair the elements as they lie in memory, so the state must have the
            # parameter's own order (channels last), which the file does not keep.
            optimizer.state[parameter] = {
                key: value if key == "step" else torch.empty_like(parameter).copy_(value)
                for key, value in found.items()
            }
