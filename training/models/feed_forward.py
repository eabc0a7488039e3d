"""The MLP of a residual block on the CPU, a chunk of the rows at a time.

A chunk's hidden states stay in the cache from the first product to the second, and no tensor of
all hidden states is made but the one that the backward pass needs: GELU's result is computed again
there. Elsewhere, and under autocast, the same three operations run one after the other.

Shapes: N rows, D width, M hidden width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 256
_gelu_backward = torch.ops.aten.gelu_backward


def feed_forward(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    """down(GELU(up(x))) of states [..., D]."""
    training = torch.is_grad_enabled() and x.device.type == "cpu"
    training = training and not torch.compiler.is_compiling()
    if not training or torch.is_autocast_enabled("cpu") or x.dtype != torch.float32:
        return down(F.gelu(up(x)))
    out: Tensor = _FeedForward.apply(x, up.weight, up.bias, down.weight, down.bias)
    return out


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor
    ) -> Tensor:
        rows = x.flatten(0, -2)
        hidden = rows.new_empty(len(rows), len(up))
        out = rows.new_empty(len(rows), len(down))
        for x_c, hidden_c, out_c in _chunks(rows, hidden, out):
            torch.addmm(up_bias, x_c, up.t(), out=hidden_c)
            torch.addmm(down_bias, F.gelu(hidden_c), down.t(), out=out_c)
        ctx.save_for_backward(x, up, down, hidden)
        return out.view(*x.shape[:-1], len(down))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, up, down, hidden = ctx.saved_tensors
        rows, incoming = x.flatten(0, -2), gradient.reshape(-1, gradient.shape[-1])
        for_x = torch.empty_like(rows)
        for_up, for_down = torch.zeros_like(up), torch.zeros_like(down)
        for_up_bias, for_down_bias = up.new_zeros(len(up)), incoming.sum(0)
        for x_c, hidden_c, in_c, for_x_c in _chunks(rows, hidden, incoming, for_x):
            for_down.addmm_(in_c.t(), F.gelu(hidden_c))
            inner = _gelu_backward(in_c @ down, hidden_c)
            for_up.addmm_(inner.t(), x_c)
            for_up_bias += inner.sum(0)
            torch.mm(inner, up, out=for_x_c)
        return for_x.view_as(x), for_up, for_up_bias, for_down, for_down_bias


def _chunks(*tensors: Tensor) -> Any:
    return zip(*(t.split(_ROWS) for t in tensors), strict=True)
