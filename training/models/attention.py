"""Attention under the paper's masks: one result, computed by what is fast on the device.

Every layer has its own order of the image positions: raster, or transposed for column layers, so
that what a position may see lies close to it (arXiv 2102.12092, appendix B.1). Queries, keys and
values come in that order.

Shapes: B batch, H heads, E head width, T text positions (the start token is one of them),
G side of the grid, L = T + G*G - 1 inputs: the last code is never an input.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from training.models.attention_banded import Tile, banded_attention, tiles
from training.models.attention_masks import attention_mask, check, may_attend

# Queries of one tile on the CPU; 16 to 128 cost about the same.
_CHUNK = 64
_MOST_PROGRAMS = 64


@dataclass(frozen=True)
class Pattern:
    """What the positions of one layer may attend to.

    Attributes:
        kind: one of `attention_masks.KINDS`.
        text_length: text positions T.
        grid: image codes along one side.
        kernel: side of the convolution pattern.
    """

    kind: str
    text_length: int
    grid: int
    kernel: int

    def __post_init__(self) -> None:
        check(self.kind, self.kernel)

    @property
    def length(self) -> int:
        """Inputs L."""
        return self.text_length + self.grid**2 - 1

    @property
    def transposed(self) -> bool:
        """Whether the image positions lie column by column."""
        return self.kind == "column"

    @property
    def reach(self) -> int:
        """How many image positions before itself a position may see, in the layer's order."""
        half = self.kernel // 2
        longest = {
            "row": self.grid,
            "column": self.grid - 1,
            "convolution": half * self.grid + half,
        }
        return min(longest.get(self.kind, self.grid**2), self.grid**2 - 1)

    def place(self, position: Any) -> Any:
        """The stream's position at a position of the layer's order, and the reverse."""
        if not self.transposed:
            return position
        image = position - self.text_length
        turned = self.text_length + image % self.grid * self.grid + image // self.grid
        return torch.where(position < self.text_length, position, turned)

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query may see a key, both in the layer's order; they broadcast."""
        query, key = self.place(query), self.place(key)
        return may_attend(self.kind, query, key, self.text_length, self.grid, self.kernel)

    def mask(self) -> Tensor:
        """What may see what in the layer's order, bool [L, L]."""
        whole = attention_mask(self.kind, self.text_length, self.grid, self.kernel)
        order = self.place(torch.arange(self.length))
        return whole[order[:, None], order]


def split(heads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, L, E] as they lie in a projection, [B, L, 3, H, E]."""
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
    return q, k, v


# A compiled block calls it as it is: its constants are made once, and its kernel is compiled alone.
@torch.compiler.disable
def attention(heads: Tensor, pattern: Pattern) -> Tensor:
    """One softmax over text and image keys; computes what the mask allows.

    CUDA runs FlexAttention, the CPU tiles of its flash attention, other devices the dense mask.

    Args:
        heads: queries, keys and values as one projection gives them, [B, L, 3, H, E].
        pattern: what may see what.

    Returns:
        [B, H, L, E].
    """
    if heads.device.type == "cpu":
        return banded_attention(heads, pattern.text_length, _tiles(pattern))
    q, k, v = split(heads)
    if heads.device.type == "cuda":
        return _compiled(pattern)(q, k, v, block_mask=_block_mask(pattern, q.device))
    return dense_attention(q, k, v, pattern)


def dense_attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """The reference: every score, then the mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=pattern.mask().to(q.device))


def block_mask(pattern: Pattern, device: torch.device) -> BlockMask:
    """FlexAttention's view of a pattern: which blocks it skips, fills or masks."""

    def mask_mod(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return pattern.allows(query, key)

    return create_block_mask(
        mask_mod, None, None, pattern.length, pattern.length, device=str(device)
    )


# Constants of a pattern; not made under inference mode, whose tensors no training may touch.
@functools.cache
def _tiles(pattern: Pattern) -> tuple[Tile, ...]:
    with torch.inference_mode(False), torch.device("cpu"):
        return tiles(pattern.mask(), pattern.text_length, pattern.reach, _CHUNK)


@functools.cache
def _block_mask(pattern: Pattern, device: torch.device) -> BlockMask:
    with torch.inference_mode(False):
        return block_mask(pattern, device)


@functools.cache
def _compiled(_pattern: Pattern) -> Any:
    # A program for each pattern and shape; beyond the limit, torch's default of 8 for all of them
    # together, FlexAttention falls back to whole matrices of scores without an error.
    return torch.compile(  # type: ignore[call-overload]
        flex_attention, dynamic=False, isolate_recompiles=True, recompile_limit=_MOST_PROGRAMS
    )


class _Reordered(torch.autograd.Function):
    """Positions taken by an order that undoes itself, so that going backward nothing is added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return gradient.index_select(1, order), None


@functools.cache
def _order(pattern: Pattern, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return pattern.place(torch.arange(pattern.length, device=device))


def reordered(x: Tensor, pattern: Pattern) -> Tensor:
    """States [B, L, D] from the stream's order to the layer's, and the reverse."""
    return _moved(x, pattern) if pattern.transposed else x


@torch.compiler.disable
def _moved(x: Tensor, pattern: Pattern) -> Tensor:
    out: Tensor = _Reordered.apply(x, _order(pattern, x.device))
    return out
