"""Checkpoints: safetensors and JSON in a directory that appears only when complete.

Every process writes what it alone holds; any number of processes reads it.

    update-000000100/
      model.00000.safetensors    of process 0: whole tensors, or its parts of sharded ones
      own.00000.safetensors      its random state, and what else no other process has
      sums.00000.json            SHA-256 of its files
      state.json                 position, schedule; written last
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from training import remote
from training.checkpoints import atomic_directory, stored_tensors
from training.checkpoints.stored_tensors import StoredTensors
from training.distributed.shards import Part
from training.runtime import barrier, greatest, place

STATE = "state.json"
BEST = "best.json"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two updates.

    Attributes:
        update: updates done.
        fingerprint: of the recipe and the data; another run's checkpoint is not resumed.
        tensors: groups of named tensors (model, ema, optimizer), the same in all processes or
            the `Part` that this one holds; `StoredTensors` when read.
        state: plain JSON (data position, schedule state).
        own: named tensors of this process alone; empty for one that was not there before.
        score: validation loss, the lower the better, if it was measured.
        trained_on: names of the data (`dataset`: a version), at the top of `state.json`, where
            retention and takedown look.
    """

    update: int
    fingerprint: str
    tensors: Mapping[str, Mapping[str, Any]]
    state: Mapping[str, Any]
    own: Mapping[str, Tensor] = field(default_factory=dict)
    score: float | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)


def save(directory: Path, checkpoint: Checkpoint, keep: int = 2) -> None:
    """Write `directory/update-N`, then remove all but the newest `keep` and the best.

    All processes of a run take part, and need a common `directory`.
    """
    rank, world = place()
    target = directory / f"update-{checkpoint.update:09d}"
    temporary = target.parent / f".{target.name}.new"
    if rank == 0:
        for torn in directory.glob(".update-*"):
            shutil.rmtree(torn)
        temporary.mkdir(parents=True)
    barrier()
    _write_own_files(temporary, checkpoint, rank)
    barrier()
    if rank == 0:
        state = {
            **checkpoint.trained_on,
            "update": checkpoint.update,
            "fingerprint": checkpoint.fingerprint,
            "processes": world,
            "score": checkpoint.score,
            "state": dict(checkpoint.state),
        }
        (temporary / STATE).write_text(json.dumps(state, indent=1))
        atomic_directory.commit(temporary, target)
        remote.push(target)
        _remove_old(directory, checkpoint.fingerprint, keep)
    barrier()


def _write_own_files(temporary: Path, checkpoint: Checkpoint, rank: int) -> None:
    groups: dict[str, Mapping[str, Tensor | Part]] = {"own": dict(checkpoint.own)}
    for name, group in checkpoint.tensors.items():
        groups[name] = {
            key: tensor
            for key, tensor in group.items()
            if (tensor.first_copy if isinstance(tensor, Part) else rank == 0)
        }
    written: list[Path] = []
    for name, group in groups.items():
        if group:
            written.append(temporary / f"{name}.{rank:05d}.safetensors")
            stored_tensors.write(written[-1], group)
    sums = temporary / f"sums.{rank:05d}.json"
    sums.write_text(json.dumps({path.name: _sha256(path) for path in written}))
    atomic_directory.sync([*written, sums])


def newest(directory: Path, fingerprint: str) -> Checkpoint | None:
    """The newest complete and undamaged checkpoint of this very run, or None.

    A damaged one is left where it is, with a warning, and the one before it is taken; a warning
    says too if there are another run's alone.
    """
    others: list[str] = []
    for path in reversed(_complete(directory)):
        problem = _problem(path)
        if greatest(int(problem is not None))[0]:
            print(
                f"warning: {path} is damaged{problem or ''}; an older one is taken", file=sys.stderr
            )
            continue
        state = json.loads((path / STATE).read_text())
        if state["fingerprint"] == fingerprint:
            return _read(path, state)
        name = state.get("dataset")
        others.append(f"{path} on dataset {name}" if name else str(path))
    if others and place()[0] == 0:
        print(
            f"warning: {others[0]} is of another run (of other data, recipe, updates or code); "
            "this one begins at update 0, and removes it in the end. To go on with it, give what "
            "it was given; to keep it, give another --output",
            file=sys.stderr,
        )
    return None


def _read(path: Path, state: dict[str, Any]) -> Checkpoint:
    groups: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*.safetensors")):
        groups.setdefault(file.name.split(".")[0], []).append(file)
    own = [
        file for file in groups.pop("own", []) if file.name == f"own.{place()[0]:05d}.safetensors"
    ]
    tensors = {name: StoredTensors(files) for name, files in groups.items()}
    return Checkpoint(
        state["update"],
        state["fingerprint"],
        tensors,
        state["state"],
        dict(StoredTensors(own)),
        state["score"],
    )


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, as far as this process's share of its files tells."""
    rank, world = place()
    try:
        processes = json.loads((path / STATE).read_text())["processes"]
        for writer in range(rank, processes, world):
            sums = json.loads((path / f"sums.{writer:05d}.json").read_text())
            for name, expected in sums.items():
                if _sha256(path / name) != expected:
                    return f": {name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f": {error}"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def best_score(directory: Path, fingerprint: str) -> float:
    """The least score of this run's checkpoints there; infinite without one."""
    return min(_scores(directory, fingerprint).values(), default=math.inf)


def _scores(directory: Path, fingerprint: str) -> dict[Path, float]:
    """This run's readable checkpoints, oldest first, and their score; infinite if not finite."""
    scores: dict[Path, float] = {}
    for path in _complete(directory):
        try:
            state = json.loads((path / STATE).read_text())
            if state["fingerprint"] == fingerprint:
                score = state["score"]
                scores[path] = math.inf if score is None or not math.isfinite(score) else score
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return scores


def _remove_old(directory: Path, fingerprint: str, keep: int) -> None:
    """Remove all but the newest `keep` of this run and its best one, which `best.json` names.

    Another run's stay: its numbers say nothing about this one's.
    """
    scores = _scores(directory, fingerprint)
    measured = {path: score for path, score in scores.items() if math.isfinite(score)}
    best = min(measured, key=lambda path: measured[path], default=None)
    if best is not None:
        temporary = directory / f".{BEST}"
        temporary.write_text(json.dumps({"checkpoint": best.name, "score": scores[best]}))
        temporary.replace(directory / BEST)
    for old in list(scores)[:-keep]:
        if old != best:
            remote.remove(old)
            # A kill while it is being removed must not leave what passes for a checkpoint.
            going = directory / f".{old.name}.old"
            old.rename(going)
            shutil.rmtree(going)


def clear(directory: Path) -> None:
    """Remove every checkpoint."""
    remote.remove(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _complete(directory: Path) -> list[Path]:
    return sorted(directory.glob("update-*"))
