"""PowerSGD with the paper's rules (arXiv 2102.12092, section 2.5 and appendix E).

torch's own hook starts Q warm or draws it anew at every step; here it is drawn once for the run.
Where machines hold a sharded copy each, a process exchanges its shards with the same shards of the
other machines, which is the paper's arrangement; elsewhere whole gradients are exchanged.

The gradient goes straight into the error buffer E; P = E Q is summed over the processes and
orthogonalised by Householder reflections; Q' = E^T P is summed; P Q'^T is the gradient, and E
loses 1/M of it. Embeddings, unembeddings, gains and biases are summed as they are.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed.shards import local

EPSILON = 1e-6
# Widths of the paper's table 1 and their ranks over all shards of a matrix.
_RANKS = {1920: 512, 2688: 640, 3968: 896}


def rank_for(width: int, shards: int = 1) -> int:
    """Rank for matrices of a model, of each of the `shards` that a matrix is split into.

    Between the paper's widths it is the multiple of 128 nearest to their mean share of the width,
    which loses nothing in training; narrow models get that share itself.
    """
    share = sum(rank / w for w, rank in _RANKS.items()) / len(_RANKS)
    near = (
        max(1, round(share * width / 128)) * 128 if width >= 512 else max(1, round(share * width))
    )
    return max(1, _RANKS.get(width, near) // shards)


class PowerSGD:
    """Compresses gradients of matrices between the backward pass and the optimiser.

    Args:
        compressed: parameters to compress by name, sharded or not; fused products (3d x d) are
            three matrices.
        rank: of P and Q.
        seed: of the fixed Q.
        divisor: what a parameter's gradient is divided by before it enters its error buffer; a
            block's gradient scale.
        group: processes that exchange, each with the same shards; all of them if not given.

    Attributes:
        errors: this process's buffers, of the shape that it holds of each parameter.
        wire_bytes: sent by this process since they were taken.
        plain_bytes: what would have been sent uncompressed.
    """

    def __init__(
        self,
        compressed: Mapping[str, Tensor],
        rank: int,
        seed: int = 0,
        divisor: Callable[[Tensor], Tensor | None] = lambda _: None,
        group: dist.ProcessGroup | None = None,
    ):
        self._divisor, self._group = divisor, group
        self.wire_bytes = self.plain_bytes = 0
        self.errors: dict[str, Tensor] = {}
        self._names = {p: name for name, p in compressed.items()}
        self._fused = {name for name, p in compressed.items() if p.shape[0] == 3 * p.shape[1]}
        self._q: dict[str, Tensor] = {}
        for i, (name, parameter) in enumerate(sorted(compressed.items())):
            held = local(parameter.detach())
            self.errors[name] = torch.zeros_like(held)
            draw = torch.Generator().manual_seed(seed * 1_000_003 + i)
            count, m, n = self._matrices(name, held).shape
            q = torch.randn(count, n, min(rank, m), generator=draw)
            self._q[name] = q.to(held.device)

    def _matrices(self, name: str, tensor: Tensor) -> Tensor:
        """A view [k, m, n] with m <= n, so that P, which is orthogonalised, is the smaller one."""
        rows, columns = tensor.shape
        # A third of a shard's rows lies within one of the three as a third of all rows does.
        parts = 3 if name in self._fused and rows % 3 == 0 else 1
        found = tensor.detach().view(parts, rows // parts, columns)
        return found.mT if found.shape[1] > found.shape[2] else found

    def exchange(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's communication hook: the summed gradients of a bucket."""
        self._exchange(bucket.parameters(), bucket.gradients())
        # Blocking collectives keep their order the same in all processes, which callbacks do not.
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def exchange_shards(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients that each copy of a sharded model has of its own, in place."""
        with_gradient = [p for p in parameters if p.grad is not None]
        self._exchange(with_gradient, [local(p.grad) for p in with_gradient if p.grad is not None])

    @torch.no_grad()
    def _exchange(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        plain: list[Tensor] = []
        squeezed: dict[str, Tensor] = {}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            divisor = self._divisor(parameter)
            if divisor is not None:
                gradient.div_(divisor)
            self.plain_bytes += gradient.nbytes
            name = self._names.get(parameter)
            if name is None:
                plain.append(gradient)
            else:
                self.errors[name] += gradient
                squeezed[name] = self._matrices(name, gradient)
        errors = [self._matrices(name, self.errors[name]) for name in squeezed]
        products = [e @ self._q[name] for name, e in zip(squeezed, errors, strict=True)]
        self._sum_together([*plain, *products])
        bases = [_orthogonal(p) for p in products]
        summed = [e.mT @ p for e, p in zip(errors, bases, strict=True)]
        self._sum_together(summed)
        for target, error, product, p, q in zip(
            squeezed.values(), errors, products, bases, summed, strict=True
        ):
            self._finish(target, error, product, p, q)

    def _finish(self, target: Tensor, error: Tensor, product: Tensor, p: Tensor, q: Tensor) -> None:
        """Write the gradient, and correct the error buffer by the rules for non-finite values."""
        decompressed = p @ q.mT
        finite = product.isfinite().all() & q.isfinite().all()
        # A gradient without a meaning must not pass for one: the update is skipped for it.
        target.copy_(torch.where(finite, decompressed, torch.inf))
        error -= torch.where(finite, decompressed / dist.get_world_size(self._group), 0)
        # Zeroing a good buffer often sets training back, so only a broken one is.
        error.copy_(torch.where(error.isfinite().all(), error, 0))

    def _sum_together(self, tensors: list[Tensor]) -> None:
        """One all-reduce for all of them, in place."""
        if not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        self.wire_bytes += flat.nbytes
        dist.all_reduce(flat, group=self._group)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def take_wire_bytes(self) -> int:
        """Bytes that this process has sent since the last call."""
        sent, self.wire_bytes, self.plain_bytes = self.wire_bytes, 0, 0
        return sent

    def summed_errors(self) -> dict[str, Tensor]:
        """Sums of the error buffers over all copies: all that a checkpoint needs of them."""
        sums = {name: error.clone() for name, error in self.errors.items()}
        for total in sums.values():
            dist.all_reduce(total, group=self._group)
        return sums

    def share_out(self) -> None:
        """Make sums, which were put into the buffers of every copy, each copy's share of them."""
        for error in self.errors.values():
            error /= dist.get_world_size(self._group)


def _orthogonal(p: Tensor) -> Tensor:
    """Orthonormal columns that span those of P + 1e-6 I, by Householder reflections in fp32."""
    usable = torch.where(p.isfinite().all(), p, 0)
    identity = torch.eye(p.shape[-2], p.shape[-1], device=p.device)
    return torch.linalg.qr(usable.float() + EPSILON * identity).Q
