"""Which position may attend to which (arXiv 2102.12092, section 2.2, figure 11, appendix B.1).

Positions 0 ... T-1 are text, T ... T + G*G - 1 the image in raster order. Masks are bool [L, L],
True where the row's position may attend to the column's. Text is causal, an image position sees
all text, and image to image is what the kind says, in raster order with wraparound:

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


def image_mask(kind: str, grid: int, kernel: int = 11) -> Tensor:
    """The image-to-image part of a mask, bool [G*G, G*G].

    Raises:
        ValueError: for an unknown kind, or a kernel that is not odd and positive.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown attention kind {kind!r}, expected one of {', '.join(KINDS)}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive, got {kernel}")
    position = torch.arange(grid * grid)
    offset = position[:, None] - position[None, :]
    if kind == "causal":
        return offset >= 0
    if kind == "row":
        return (offset >= 0) & (offset <= grid)
    if kind == "column":
        return (offset >= 0) & (offset % grid == 0)
    reach = kernel // 2
    allowed = {dy * grid + dx for dy in range(reach + 1) for dx in range(-reach, reach + 1)}
    return torch.isin(offset, torch.tensor(sorted(d for d in allowed if d >= 0)))


def attention_mask(kind: str, text_length: int, grid: int, kernel: int = 11) -> Tensor:
    """The whole mask, bool [L, L] with L = text_length + grid * grid.

    Args:
        kind: one of `KINDS`.
        text_length: text positions T.
        grid: image codes along one side.
        kernel: side of the convolution pattern.
    """
    length = text_length + grid * grid
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[text_length:, text_length:] = image_mask(kind, grid, kernel)
    return mask
