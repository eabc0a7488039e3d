"""Averaged weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of a model's parameters.

    The decay rises with the updates, (1 + n) / (10 + n), until it reaches its configured value,
    so that short runs do not average in their beginning.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self._live = [p.detach() for p in model.parameters()]
        self._average = [p.clone() for p in self._live]

    def update(self, count: int) -> None:
        """Take in the current weights; `count` updates of the average came before."""
        decay = min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(self._average, self._live, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(zip(self.names, self._average, strict=True))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over `tensors()` of an earlier process."""
        for name, average in zip(self.names, self._average, strict=True):
            average.copy_(tensors[name])
