"""A model in several processes: replicated (DDP) or sharded (FSDP2); gradients are added up.

Every process divides its loss by their number M, so that sums of gradients are means (App. D).
"""

import contextlib
import itertools
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
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


def shard(model: nn.Module, blocks: nn.ModuleList, gathered: torch.dtype | None) -> None:
    """Split the parameters of each block, and the rest, by rows among all processes (2.5).

    Args:
        model: changed in place; the optimiser is made afterwards.
        blocks: of the model; each is gathered while the one before it computes.
        gathered: format in which the blocks' matrices travel; gains and all gradients travel in
            fp32.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    units: list[list[FSDPModule]] = []
    for block in blocks:
        # A unit has one format, so gains that stay in fp32 are units of their own.
        gains = [m for m in block.modules() if gathered and isinstance(m, nn.LayerNorm)]
        norms = [fully_shard(module) for module in gains]
        units.append([fully_shard(block, mp_policy=policy), *norms])
    for unit in itertools.chain([fully_shard(model)], *units):
        unit.set_gradient_divide_factor(1.0)
        # Gloo has no other reduction.
        unit.set_force_sum_reduction_for_comms(True)
    for this, following in itertools.pairwise(units):
        this[0].set_modules_to_forward_prefetch(following)
        following[0].set_modules_to_backward_prefetch(this)


@contextlib.contextmanager
def exchanging(wrapped: nn.Module, last: bool) -> Iterator[None]:
    """Exchange gradients only in the `last` backward pass of an update."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
        yield
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        with wrapped.no_sync():
            yield
    else:
        yield
