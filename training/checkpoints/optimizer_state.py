"""An optimiser's state as named tensors, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.checkpoints.checkpoint import Checkpoint
from training.checkpoints.stored_tensors import StoredTensors
from training.distributed.shards import part_of


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> dict[str, Any]:
    """The optimiser's state as named tensors: `PARAMETER/KEY`."""
    return {
        f"{names[parameter]}/{key}": part_of(value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    found: Checkpoint,
) -> None:
    """Inverse of `optimizer_tensors`, in any number of processes.

    Args:
        optimizer: of the same parameters.
        names: of its parameters.
        found: as read; without a state where every update so far was skipped.
    """
    stored = found.tensors.get("optimizer")
    if stored is None:
        return
    assert isinstance(stored, StoredTensors), type(stored)
    keys: dict[str, list[str]] = {}
    for name in stored:
        parameter_name, key = name.rsplit("/", 1)
        keys.setdefault(parameter_name, []).append(key)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            state: dict[str, Tensor] = {}
            for key in keys.get(name, []):
                if key == "step":
                    # Fused optimisers want their step count where the parameter is.
                    state[key] = stored[f"{name}/{key}"].to(parameter.device)
                else:
                    # Fused optimisers pair the elements as they lie in memory, so the state must
                    # have the parameter's own order (channels last), which the file does not keep.
                    state[key] = torch.empty_like(parameter)
                    stored.into(f"{name}/{key}", part_of(state[key]))
            optimizer.state[parameter] = state
