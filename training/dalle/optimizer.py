"""AdamW of stage two: decay for matrices alone, a clipped variance, a clipped global norm (B.2)."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.config import AdamWConfig
from training.distributed.shards import local, shards_group

# The closer bound may be met by an element, whose variance in fp32 is off by some of 2**-24.
_ROUNDING = 1 - 1e-5


class ClippedAdamW(torch.optim.AdamW):
    """Fused AdamW whose running variance is clipped by value before it is used.

    The variance after an update is beta2 * v + (1 - beta2) * g**2. No element of g exceeds the
    gradient's global norm, so a bound of the largest variance follows from the norms alone. While
    it lies below the clip, the fused update is the clipped one and costs nothing more. Where it
    does not, as early in a training, the greatest element of g gives a closer one for a reading of
    the gradients. Only beyond that v is first lowered so that the result meets the clip exactly.

    Args:
        model: its parameters; gains, biases and embeddings do not decay.
        config: betas, epsilon, decay and clip.
    """

    def __init__(self, model: nn.Module, config: AdamWConfig):
        decayed, plain = parameter_groups(model)
        super().__init__(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )
        self.variance_clip = config.variance_clip
        self._beta2 = config.beta2
        self._bound = 0.0

    def update(self, step_size: float, norm: float) -> None:
        """One update.

        Args:
            step_size: of this update.
            norm: global norm of the gradients as they are now, finite.
        """
        for group in self.param_groups:
            group["lr"] = step_size
        decayed = self._beta2 * self._bound
        self._bound = decayed + (1 - self._beta2) * norm**2
        if self._bound > self.variance_clip:
            self._bound = decayed + (1 - self._beta2) * self._greatest() ** 2
            if self._bound > _ROUNDING * self.variance_clip:
                self._lower_variance()
                self._bound = min(self._bound, self.variance_clip)
        self.step()

    def measure_bound(self) -> None:
        """Take the bound from the variances themselves, after they were loaded."""
        found = [local(s["exp_avg_sq"]) for s in self.state.values()]
        self._bound = max((float(v.max()) for v in found if v.numel()), default=0.0)

    @torch.no_grad()
    def _greatest(self) -> float:
        """The greatest |g| of what this process holds."""
        parameters = (p for group in self.param_groups for p in group["params"])
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        gradients = [g for g in gradients if g.numel()]
        if not gradients:
            return 0.0
        if gradients[0].device.type == "cpu":  # where that norm takes six times as long
            found = [torch.stack(torch.aminmax(g)).abs().max() for g in gradients]
        else:
            found = list(torch._foreach_norm(gradients, torch.inf))
        return float(torch.stack(found).max())

    @torch.no_grad()
    def _lower_variance(self) -> None:
        pairs = [
            (local(self.state[p]["exp_avg_sq"]), local(p.grad))
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and self.state.get(p)
        ]
        if not pairs:
            return
        variances, gradients = map(list, zip(*pairs, strict=True))
        limits = torch._foreach_mul(gradients, gradients)
        torch._foreach_mul_(limits, 1 - 1 / self._beta2)
        torch._foreach_add_(limits, self.variance_clip / self._beta2)
        torch._foreach_minimum_(variances, limits)


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights that decay, and gains, biases and embeddings, which do not (appendix B.2)."""
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if id(parameter) in matrices else plain).append(parameter)
    return decayed, plain


@torch.no_grad()
def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, the shards of all processes included."""
    given = list(gradients)
    parts = [local(g) for g in given]
    squares = torch.stack(torch._foreach_norm(parts)).square().sum()
    sharded = next((g for g in given if isinstance(g, DTensor)), None)
    if sharded is not None:
        dist.all_reduce(squares, group=shards_group(sharded))
    return squares.sqrt()


@torch.no_grad()
def clip_by_norm(gradients: Sequence[Tensor], norm: float, limit: float) -> float:
    """Shrink gradients of global norm `norm` to at most `limit`; their norm afterwards."""
    if norm <= limit:
        return norm
    torch._foreach_mul_([local(g) for g in gradients], limit / norm)
    return limit
