"""PowerSGD with the paper's rules (arXiv 2102.12092, section 2.5 and appendix E).

torch's own hook starts Q warm or draws it anew at every step; here it is drawn once for the run.
The gradient goes straight into the error buffer E; P = E Q is summed over the processes and
orthogonalised by Householder reflections; Q' = E^T P is summed; P Q'^T is the gradient, and E
loses 1/M of it. Embeddings, unembeddings, gains and biases are summed as they are.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

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
        compressed: parameters to compress by name; fused products (3d x d) are three matrices.
        rank: of P and Q.
        seed: of the fixed Q.
        divisor: what a parameter's gradient is divided by before it enters its error buffer; a
            block's gradient scale.

    Attributes:
        wire_bytes: sent by this process since they were taken.
        plain_bytes: what would have been sent uncompressed.
    """

    def __init__(
        self,
        compressed: Mapping[str, Tensor],
        rank: int,
        seed: int = 0,
        divisor: Callable[[Tensor], Tensor | None] = lambda _: None,
    ):
        self._divisor = divisor
        self.wire_bytes = self.plain_bytes = 0
        self.errors: dict[str, Tensor] = {}
        self._names = {p: name for name, p in compressed.items()}
        self._q: dict[str, Tensor] = {}
        for i, (name, parameter) in enumerate(sorted(compressed.items())):
            matrices = self._matrices(parameter)
            self.errors[name] = torch.zeros_like(matrices)
            draw = torch.Generator().manual_seed(seed * 1_000_003 + i)
            count, m, n = matrices.shape
            q = torch.randn(count, n, min(rank, m), generator=draw)
            self._q[name] = q.to(parameter.device)

    @staticmethod
    def _matrices(tensor: Tensor) -> Tensor:
        """[k, m, n] with m <= n, so that P, which is orthogonalised, is the smaller one."""
        rows, columns = tensor.shape
        parts = 3 if rows == 3 * columns else 1
        found = tensor.detach().reshape(parts, rows // parts, columns)
        return found.mT if found.shape[1] > found.shape[2] else found

    def exchange(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's communication hook: the summed gradients of a bucket."""
        self._exchange(bucket.parameters(), bucket.gradients())
        # Blocking collectives keep their order the same in all processes, which callbacks do not.
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    @torch.no_grad()
    def _exchange(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        plain: list[Tensor] = []
        squeezed: list[tuple[str, Tensor]] = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            divisor = self._divisor(parameter)
            if divisor is not None:
                gradient.div_(divisor)
            self.plain_bytes += gradient.nbytes
            name = self._names.get(parameter)
            if name is None:
                plain.append(gradient)
            else:
                self.errors[name] += self._matrices(gradient)
                squeezed.append((name, self._matrices(gradient)))
        products = [self.errors[name] @ self._q[name] for name, _ in squeezed]
        self._sum_together([*plain, *products])
        bases = [_orthogonal(p) for p in products]
        names = [name for name, _ in squeezed]
        summed = [self.errors[name].mT @ p for name, p in zip(names, bases, strict=True)]
        self._sum_together(summed)
        for (name, target), product, p, q in zip(squeezed, products, bases, summed, strict=True):
            self._finish(name, target, product, p, q)

    def _finish(self, name: str, target: Tensor, product: Tensor, p: Tensor, q: Tensor) -> None:
        """Write the gradient, and correct the error buffer by the rules for non-finite values."""
        decompressed = p @ q.mT
        finite = product.isfinite().all() & q.isfinite().all()
        # A gradient without a meaning must not pass for one: the update is skipped for it.
        target.copy_(torch.where(finite, decompressed, torch.inf))
        error = self.errors[name]
        error -= torch.where(finite, decompressed / dist.get_world_size(), 0)
        # Zeroing a good buffer often sets training back, so only a broken one is.
        error.copy_(torch.where(error.isfinite().all(), error, 0))

    def _sum_together(self, tensors: list[Tensor]) -> None:
        """One all-reduce for all of them, in place."""
        if not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        self.wire_bytes += flat.nbytes
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def take_wire_bytes(self) -> int:
        """Bytes that this process has sent since the last call."""
        sent, self.wire_bytes, self.plain_bytes = self.wire_bytes, 0, 0
        return sent

    def summed_errors(self) -> dict[str, Tensor]:
        """Sums of the error buffers over all processes: all that a checkpoint needs of them."""
        sums = {name: error.clone() for name, error in self.errors.items()}
        for total in sums.values():
            dist.all_reduce(total)
        return sums

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Share the sums out among any number of processes."""
        for name, error in self.errors.items():
            error.copy_(sums[name] / dist.get_world_size())


def _orthogonal(p: Tensor) -> Tensor:
    """Orthonormal columns that span those of P + 1e-6 I, by Householder reflections in fp32."""
    usable = torch.where(p.isfinite().all(), p, 0)
    identity = torch.eye(p.shape[-2], p.shape[-1], device=p.device)
    return torch.linalg.qr(usable.float() + EPSILON * identity).Q
