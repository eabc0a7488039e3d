"""The state of a run of stage two as a checkpoint, and back in any number of processes."""

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from training.checkpoints.checkpoint import Checkpoint
from training.checkpoints.optimizer_state import load_optimizer, optimizer_tensors
from training.checkpoints.resume_position import own_position, position_for
from training.distributed.shards import part_like, part_of
from training.row_stream import Position

if TYPE_CHECKING:
    from training.dalle.trainer import DALLETrainer

# Sums over the copies of the model, of each parameter's shape.
_ERRORS = "errors"


def taken(trainer: "DALLETrainer", done: int) -> Checkpoint:
    """State after `done` updates; every process takes part."""
    named, averages = trainer.parameters, trainer.ema.tensors()
    tensors: dict[str, dict[str, Any]] = {
        "model": {name: part_of(p) for name, p in named.items()},
        "ema": {name: part_like(p, averages[name]) for name, p in named.items()},
        "optimizer": optimizer_tensors(trainer.optimizer, trainer.names),
    }
    if trainer.compression is not None:
        sums = trainer.compression.summed_errors()
        tensors[_ERRORS] = {name: part_like(named[name], total) for name, total in sums.items()}
    position = trainer.stream.position
    state = {
        "position": dataclasses.asdict(position),
        "world": trainer.runtime.world,
        "plateau": trainer.plateau.state(),
        "skipped_in_a_row": trainer.skipped.in_a_row,
        "scales": trainer.scales.state() if trainer.scales else None,
    }
    own = own_position(position)
    return Checkpoint(done, trainer.fingerprint, tensors, state, own)


def put_back(trainer: "DALLETrainer", found: Checkpoint) -> None:
    """Go on from what `taken` gave in any number of processes."""
    named, averages = trainer.parameters, trainer.ema.tensors()
    with torch.no_grad():
        for name, p in named.items():
            found.tensors["model"].into(name, part_of(p))  # type: ignore[attr-defined]
            found.tensors["ema"].into(name, part_like(p, averages[name]))  # type: ignore[attr-defined]
    load_optimizer(trainer.optimizer, trainer.names, found)
    trainer.optimizer.measure_bound()
    if trainer.compression is not None and _ERRORS in found.tensors:
        for name, error in trainer.compression.errors.items():
            part = part_like(named[name], error)
            found.tensors[_ERRORS].into(name, part)  # type: ignore[attr-defined]
        trainer.compression.share_out()
    state = found.state
    stored = Position(**state["position"])
    trainer.stream.position = position_for(stored, state["world"], found.own, trainer.runtime)
    trainer.plateau.load(state["plateau"])
    trainer.skipped.in_a_row = state["skipped_in_a_row"]
    if trainer.scales is not None and state["scales"] is not None:
        trainer.scales.load(state["scales"])
