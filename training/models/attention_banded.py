"""The CPU's path: only the tiles of the scores that hold what a mask allows.

Text sees text; the image sees all text, and near itself. Each part is one call of the CPU's flash
attention; parts that share queries are joined by their log-sum-exps, which is exactly one softmax
over all keys. The backward of a part needs the joint result and log-sum-exp only.

`torch.ops.aten._scaled_dot_product_flash_attention_for_cpu` is what scaled_dot_product_attention
calls here, and alone gives the log-sum-exp.

Shapes: B batch, H heads, E head width, T text positions, L inputs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Tile(NamedTuple):
    """Queries and keys of one call.

    Attributes:
        queries: their positions in the layer's order.
        keys: likewise.
        causal: text and text.
        bias: 0 where a query sees a key and -inf elsewhere; None where it sees all.
    """

    queries: slice
    keys: slice
    causal: bool = False
    bias: Tensor | None = None


def tiles(mask: Tensor, text_length: int, reach: int, chunk: int) -> tuple[Tile, ...]:
    """The tiles of a mask, bool [L, L]: text, image to text, then chunks of the image.

    Args:
        mask: in the layer's order.
        text_length: text positions T.
        reach: how many image positions before itself a position may see.
        chunk: queries in a tile.
    """
    length = len(mask)
    text, image = slice(0, text_length), slice(text_length, length)
    found = [Tile(text, text, causal=True), Tile(image, text)]
    for start in range(text_length, length, chunk):
        queries = slice(start, min(start + chunk, length))
        keys = slice(max(text_length, start - reach), queries.stop)
        allowed = mask[queries, keys]
        bias = torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))
        found.append(Tile(queries, keys, bias=bias))
    return tuple(found)


def banded_attention(heads: Tensor, parts: tuple[Tile, ...]) -> Tensor:
    """Attention [B, H, L, E] of heads [B, L, 3, H, E] in what `tiles` returned."""
    out: Tensor = _Banded.apply(heads, parts)
    return out


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, parts: tuple[Tile, ...]) -> Tensor:
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        b, h, length, e = q.shape
        # In memory [B, L, H, E], as the projection behind reads it.
        y = q.new_empty(b, length, h, e, dtype=torch.float32).transpose(1, 2)
        total = q.new_empty(b, length, h, dtype=torch.float32).transpose(1, 2)
        for i, part in enumerate(parts):
            at = slice(None), slice(None), part.queries
            bias = None if part.bias is None else part.bias.to(q.dtype)
            found, lse = _flash(
                q[at], k[:, :, part.keys], v[:, :, part.keys], 0.0, part.causal, attn_mask=bias
            )
            if i < 2:  # text, and image to text: the first of their queries
                y[at], total[at] = found, lse
            else:
                y[at].lerp_(found.float(), torch.sigmoid(lse - total[at])[..., None])
                total[at] = torch.logaddexp(total[at], lse)
        y = y.to(q.dtype)
        ctx.save_for_backward(heads, y, total)
        ctx.parts = parts
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        heads, y, total = ctx.saved_tensors
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        whole = torch.zeros_like(heads, dtype=torch.float32)
        dq, dk, dv = whole.permute(2, 0, 3, 1, 4)
        for part in ctx.parts:
            at, keys = (
                (slice(None), slice(None), part.queries),
                (slice(None), slice(None), part.keys),
            )
            bias = None if part.bias is None else part.bias.to(q.dtype)
            found = _flash_backward(
                gradient[at], q[at], k[keys], v[keys], y[at], total[at], 0.0, part.causal,
                attn_mask=bias,
            )  # fmt: skip
            for target, where, add in zip((dq, dk, dv), (at, keys, keys), found, strict=True):
                target[where] += add
        return whole.to(heads.dtype), None
