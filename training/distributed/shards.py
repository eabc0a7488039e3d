"""Parts of tensors that FSDP2 split among processes."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


@dataclass(frozen=True)
class Part:
    """What one process holds of a tensor: all of it but along one dimension.

    Attributes:
        held: the part.
        dimension: along which the tensor is split.
        start: index in it at which the part begins.
        first_copy: whether this process is of the first of the groups that hold the tensor.
    """

    held: Tensor
    dimension: int
    start: int
    first_copy: bool = True


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _split(sharded: DTensor) -> tuple[int, int]:
    """The dimension of the mesh, and of the tensor, along which it is split."""
    [found] = [(i, p.dim) for i, p in enumerate(sharded.placements) if isinstance(p, Shard)]
    return found


def shards_group(sharded: DTensor) -> dist.ProcessGroup:
    """The processes that hold one copy of a tensor together."""
    return sharded.device_mesh.get_group(_split(sharded)[0])


def part_like(sharded: Tensor, held: Tensor) -> Tensor | Part:
    """`held` as this process's part of a tensor that is split as `sharded` is, or not at all."""
    if not isinstance(sharded, DTensor):
        return held
    # FSDP2 splits as torch.chunk does: equal parts, the last ones shorter.
    along, dimension = _split(sharded)
    mesh, size = sharded.device_mesh, sharded.shape[dimension]
    step = -(-size // mesh.size(along))
    start = min(mesh.get_local_rank(along) * step, size)
    # Ranks of a copy follow one another.
    return Part(held, dimension, start, dist.get_rank() < mesh.size(along))


def part_of(tensor: Tensor) -> Tensor | Part:
    """A tensor, or this process's part of a sharded one."""
    return part_like(tensor, local(tensor.detach()))


def whole(sharded: Tensor, part: Tensor) -> Tensor:
    """All of a tensor split as `sharded` is; every process must take part."""
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
