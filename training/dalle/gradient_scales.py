"""One gradient scale for each residual block: when it grows, and when it falls (appendix D)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GROWTH = 2 ** (1 / 1000)
BACK_OFF = 1 / math.sqrt(2)
# A scale that was divided stays as it is for so many updates, whatever overflows.
WINDOW = 125
FIRST, LEAST, GREATEST = 2.0**13, 2.0**7, 2.0**24


class GradientScales:
    """The scales and their rule.

    The loss is divided by the number of replicas M before the backward pass, so that replicas'
    gradients add up; the scales are M times as large to make up for it.

    Args:
        blocks: how many scales.
        replicas: M, the processes whose gradients are added.
        device: where the blocks run.

    Attributes:
        tensor: fp32 [blocks], what the blocks multiply with.
        filtered: bool [blocks], which blocks' backward passes met Inf or NaN since the last update.
    """

    def __init__(self, blocks: int, replicas: int = 1, device: torch.device | None = None):
        self.replicas = replicas
        self.values = [FIRST * replicas] * blocks
        self._updates = 0
        self._divided = [-WINDOW] * blocks
        self.tensor = torch.tensor(self.values, device=device)
        self.filtered = torch.zeros(blocks, dtype=torch.bool, device=device)

    def overflowed(self, gradients: Sequence[Sequence[Tensor]]) -> Tensor:
        """Which blocks met Inf or NaN, in the filter or in their parameters' gradients.

        Bool [blocks].
        """
        finite = [torch.stack(torch._foreach_norm(list(g))).isfinite().all() for g in gradients]
        return self.filtered | ~torch.stack(finite)

    def update(self, overflowed: Sequence[bool]) -> None:
        """Take in which blocks met a non-finite gradient in any process."""
        for i, bad in enumerate(overflowed):
            if not bad:
                self.values[i] *= GROWTH
            elif self._updates - self._divided[i] >= WINDOW:
                self.values[i] *= BACK_OFF
                self._divided[i] = self._updates
            least, greatest = LEAST * self.replicas, GREATEST * self.replicas
            self.values[i] = min(max(self.values[i], least), greatest)
        self._updates += 1
        self._publish()

    def reported(self) -> dict[str, float]:
        """Extremes, as powers of two, for the progress line."""
        logs = sorted(math.log2(v / self.replicas) for v in self.values)
        return {"log2_scale_least": logs[0], "log2_scale_greatest": logs[-1]}

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; scales of one replica."""
        return {
            "values": [v / self.replicas for v in self.values],
            "updates": self._updates,
            "divided": self._divided,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over `state()` of a run with any number of replicas."""
        self.values = [v * self.replicas for v in state["values"]]
        self._updates, self._divided = state["updates"], list(state["divided"])
        self._publish()

    def _publish(self) -> None:
        self.tensor.copy_(torch.tensor(self.values))
        self.filtered.zero_()

    def divide_(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        """Undo the scales: gradients of each block's parameters, in place."""
        for scale, group in zip(self.values, gradients, strict=True):
            torch._foreach_mul_(list(group), 1 / scale)
