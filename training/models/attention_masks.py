"""Which position may attend to which (arXiv 2102.12092, section 2.2, figure 11, appendix B.1).

Positions 0 ... T-1 are text, T ... T + G*G - 1 the image in raster order. Text is causal, an image
position sees all text, and image to image is what the kind says, in raster order with wraparound:

    row          itself and the G positions before it
    column       its column: itself and every row above
    convolution  offsets dy * G + dx >= 0 with 0 <= dy <= k // 2 and |dx| <= k // 2
    causal       everything before it
"""

import torch
from torch import Tensor

KINDS = ("row", "column", "convolution", "causal")


def layer_kinds(depth: int) -> tuple[str, ...]:
    """Kinds of the layers in order: row, column, row, row, row, column, ...; last convolution.

    Layer i of 1 ... depth-1 is a column layer if (i - 2) mod 4 = 0 (appendix B.1).
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    sparse = ("column" if (i - 2) % 4 == 0 else "row" for i in range(1, depth))
    return (*sparse, "convolution")


def check(kind: str, kernel: int) -> None:
    """Raise ValueError for an unknown kind, or a kernel that is not odd and positive."""
    if kind not in KINDS:
        raise ValueError(f"unknown attention kind {kind!r}, expected one of {', '.join(KINDS)}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive, got {kernel}")


def may_attend(
    kind: str, query: Tensor, key: Tensor, text_length: int, grid: int, kernel: int
) -> Tensor:
    """The rule for positions of any shapes that broadcast; bool."""
    text = key < text_length
    image = seen_at(kind, query - key, grid, kernel)
    return (key <= query) & (text | image)


def seen_at(kind: str, offset: Tensor, grid: int, kernel: int) -> Tensor:
    """Whether an image position sees the image position `offset` >= 0 before it; bool."""
    if kind == "row":
        return offset <= grid
    if kind == "column":
        return offset % grid == 0
    if kind == "convolution":
        # Of all rows whose window may hold the offset, the last reaches furthest to the right.
        half = kernel // 2
        dy = ((offset + half) // grid).clamp(max=half)
        return offset - dy * grid <= half
    return offset >= 0


def attention_mask(kind: str, text_length: int, grid: int, kernel: int = 11) -> Tensor:
    """The whole mask, bool [L, L] with L = text_length + grid * grid.

    True where the row's position may attend to the column's.

    Args:
        kind: one of `KINDS`.
        text_length: text positions T.
        grid: image codes along one side.
        kernel: side of the convolution pattern.

    Raises:
        ValueError: for an unknown kind, or a kernel that is not odd and positive.
    """
    check(kind, kernel)
    position = torch.arange(text_length + grid * grid)
    return may_attend(kind, position[:, None], position[None, :], text_length, grid, kernel)
