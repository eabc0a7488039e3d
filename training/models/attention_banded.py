"""The CPU's path: only the tiles of the scores that hold what a mask allows.

Text sees text, and the image all of it: one call of the CPU's flash attention, whose causal mask
is aligned at the top left. The image near itself is a call for each chunk of queries, joined to
the first by their log-sum-exps, which is exactly one softmax over all keys. The backward of a call
needs the joint result and log-sum-exp only.

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
    """Queries and keys of the image in one call.

    Attributes:
        queries: their positions in the layer's order.
        keys: likewise.
        bias: 0 where a query sees a key and -inf elsewhere.
    """

    queries: slice
    keys: slice
    bias: Tensor


def tiles(mask: Tensor, text_length: int, reach: int, chunk: int) -> tuple[Tile, ...]:
    """The image's tiles of a mask, bool [L, L].

    Args:
        mask: in the layer's order.
        text_length: text positions T.
        reach: how many image positions before itself a position may see.
        chunk: queries in a tile.
    """
    found = []
    for start in range(text_length, len(mask), chunk):
        queries = slice(start, min(start + chunk, len(mask)))
        keys = slice(max(text_length, start - reach), queries.stop)
        allowed = mask[queries, keys]
        bias = torch.zeros(allowed.shape).masked_fill_(~allowed, float("-inf"))
        found.append(Tile(queries, keys, bias))
    return tuple(found)


def banded_attention(heads: Tensor, text_length: int, image: tuple[Tile, ...]) -> Tensor:
    """Attention [B, H, L, E] of heads [B, L, 3, H, E]; `image` is what `tiles` returned."""
    out: Tensor = _Banded.apply(heads, text_length, image)
    return out


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, text_length: int, image: tuple[Tile, ...]) -> Tensor:
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        # In memory [B, L, H, E], as the projection behind reads it.
        y, total = _flash(q, k[:, :, :text_length], v[:, :, :text_length], 0.0, True)
        y = y.float()
        for tile in image:
            at, keys = _places(tile)
            found, lse = _flash(
                q[at], k[keys], v[keys], 0.0, False, attn_mask=tile.bias.to(q.dtype)
            )
            y[at].lerp_(found.float(), torch.sigmoid(lse - total[at])[..., None])
            total[at] = torch.logaddexp(total[at], lse)
        y = y.to(q.dtype)
        ctx.save_for_backward(heads, y, total)
        ctx.text_length, ctx.image = text_length, image
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        heads, y, total = ctx.saved_tensors
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        text = ctx.text_length
        whole = torch.zeros_like(heads, dtype=torch.float32)
        dq, dk, dv = whole.permute(2, 0, 3, 1, 4)
        found = _flash_backward(gradient, q, k[:, :, :text], v[:, :, :text], y, total, 0.0, True)
        for target, gained in zip((dq, dk[:, :, :text], dv[:, :, :text]), found, strict=True):
            target.copy_(gained)
        for tile in ctx.image:
            at, keys = _places(tile)
            found = _flash_backward(
                gradient[at], q[at], k[keys], v[keys], y[at], total[at], 0.0, False,
                attn_mask=tile.bias.to(q.dtype),
            )  # fmt: skip
            for target, gained in zip((dq[at], dk[keys], dv[keys]), found, strict=True):
                target += gained
        return whole.to(heads.dtype), None, None


def _places(tile: Tile) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Queries and keys as indices of [B, H, L, E] and [B, H, L]."""
    return (slice(None), slice(None), tile.queries), (slice(None), slice(None), tile.keys)
