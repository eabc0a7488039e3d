"""A model in several processes: replicated (DDP), sharded (FSDP2) or both; gradients add up.

Every process divides its loss by their number M, so that sums of gradients are means (App. D).
"""

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from training.distributed.power_sgd import PowerSGD


def replicate(model: nn.Module, compression: PowerSGD | None = None) -> DistributedDataParallel:
    """The model with whole parameters in every process."""
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    if compression is None:
        wrapped.register_comm_hook(None, _sum)
    else:
        wrapped.register_comm_hook(compression, PowerSGD.exchange)
    return wrapped


def _sum(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


def copies_mesh(device: torch.device, shards: int) -> DeviceMesh:
    """Processes as copies of the model x the `shards` of a copy, which follow one another."""
    copies = dist.get_world_size() // shards
    return init_device_mesh(device.type, (copies, shards), mesh_dim_names=("copies", "shards"))


def shard(
    model: nn.Module, blocks: nn.ModuleList, gathered: torch.dtype | None, mesh: DeviceMesh
) -> None:
    """Split the parameters of each block, and the rest, among processes (2.5).

    Args:
        model: changed in place; the optimiser is made afterwards.
        blocks: of the model; each is gathered while the one before it computes.
        gathered: format in which the blocks' matrices travel; gains and all gradients travel in
            fp32.
        mesh: `copies_mesh`, whose copies' gradients are added up; or its "shards" alone, and then
            each copy has its own gradients.
    """
    shards = mesh["shards"].size()
    # What blocks give is added to the stream, which makes a new tensor.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")

    def placement(parameter: nn.Parameter) -> Shard:
        # Wide matrices are cut into upright pieces, as appendix E has them; they compress better.
        rows, columns = parameter.shape if parameter.ndim == 2 else (1, 0)
        return Shard(int(columns > rows and columns % shards == 0))

    split = partial(fully_shard, mesh=mesh, shard_placement_fn=placement)
    policy = MixedPrecisionPolicy(
        param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    units: list[list[FSDPModule]] = []
    for block in blocks:
        # A unit has one format, so gains that stay in fp32 are units of their own.
        gains = [m for m in block.modules() if gathered and isinstance(m, nn.LayerNorm)]
        norms = [split(module) for module in gains]
        units.append([split(block, mp_policy=policy), *norms])
    for unit in itertools.chain([split(model)], *units):
        unit.set_gradient_divide_factor(1.0)
        # Gloo has no other reduction.
        unit.set_force_sum_reduction_for_comms(True)
    for this, following in itertools.pairwise(units):
        this[0].set_modules_to_forward_prefetch(following)
        following[0].set_modules_to_backward_prefetch(this)


@contextlib.contextmanager
def exchanging(wrapped: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients between copies only in the `last` backward pass of an update.

    Within a sharded copy each pass's are added up at once, so that nobody holds whole ones.
    """
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_all_reduce(last)
        yield
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        with wrapped.no_sync():
            yield
    else:
        yield
