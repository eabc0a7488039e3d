"""A residual block in fp16 between fp32 identity paths (arXiv 2102.12092, Figure 4).

Forward, the block takes fp16 and its result goes back to fp32. Backward, the incoming gradient is
multiplied by the block's scale and cast to fp16; the outgoing one is freed of Inf and NaN, cast to
fp32 and divided by the scale before it joins the identity path. Without that filter one overflow
would lower the scales of all earlier blocks.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from training.dalle.gradient_scales import GradientScales


class _Enter(torch.autograd.Function):
    """fp32 to fp16; backward: filter, fp32, unscale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, filtered: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.filtered = filtered
        return x.half()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (scale,) = ctx.saved_tensors
        finite = gradient.isfinite()
        ctx.filtered.logical_or_(~finite.all())
        return torch.where(finite, gradient, 0).float() / scale, None, None


class _Leave(torch.autograd.Function):
    """fp16 to fp32; backward: scale, fp16."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return y.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return (gradient * scale).half(), None


class _HalfLinear(torch.autograd.Function):
    """A product in fp16 whose bias gradient is summed and kept in fp32, as biases are."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.half()
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.half(), bias.half())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        for_weight = flat.t() @ x.flatten(0, -2)
        return gradient @ weight.half(), for_weight.float(), flat.sum(0, dtype=torch.float32)


def run_in_half(blocks: nn.ModuleList, scales: GradientScales) -> None:
    """Make every block run in fp16 with its own scale.

    Gradients of a block's parameters come out multiplied by its scale. Names of modules and
    parameters stay as they were.
    """
    for i, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(module, nn.Linear):
                module.forward = functools.partial(_linear, module)  # type: ignore[method-assign]
        block.forward = functools.partial(
            _between_fp32, block.forward, scales.tensor[i], scales.filtered[i]
        )


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return _HalfLinear.apply(x, module.weight, module.bias)


def _between_fp32(
    inner: Callable[..., Tensor], scale: Tensor, filtered: Tensor, x: Tensor, *rest: Any
) -> Tensor:
    entered = _Enter.apply(x, scale, filtered)
    with torch.autocast(x.device.type, dtype=torch.float16):
        y = inner(entered, *rest)
    return _Leave.apply(y, scale)
