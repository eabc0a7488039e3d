"""Parts of tensors that FSDP2 split by rows among processes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Rows:
    """Rows `start` and after of a tensor that has `total` rows: what one process holds of it."""

    part: Tensor
    start: int
    total: int


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_like(sharded: Tensor, part: Tensor) -> Tensor | Rows:
    """`part` as this process's rows of a tensor that is split as `sharded` is, or not at all."""
    if not isinstance(sharded, DTensor):
        return part
    # FSDP2 splits the first dimension as torch.chunk does: equal parts, the last ones shorter.
    mesh = sharded.device_mesh
    step = -(-sharded.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * step, sharded.shape[0])
    return Rows(part, start, sharded.shape[0])


def rows_of(tensor: Tensor) -> Tensor | Rows:
    """A tensor, or this process's rows of a sharded one."""
    return rows_like(tensor, local(tensor.detach()))


def whole(sharded: Tensor, part: Tensor) -> Tensor:
    """All rows of a tensor split as `sharded` is; every process must take part."""
    if not isinstance(sharded, DTensor):
        return part
    return DTensor.from_local(
        part.to(sharded.device),
        sharded.device_mesh,
        sharded.placements,
        run_check=False,
        shape=sharded.shape,
        stride=torch.empty(sharded.shape, device="meta").stride(),
    ).full_tensor()
