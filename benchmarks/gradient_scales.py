"""Gradients that one scale for all blocks loses in fp16, and a scale for each block keeps.

`python -m benchmarks.gradient_scales PICTURE` prints the shares and draws them. The small
transformer's blocks get gradients of falling size, as in large models (arXiv 2102.12092, section
2.4): the result of block i of n counts 2**(-spread * i / (n - 1)) times. Each scale begins at its
greatest value and is halved until nothing overflows: the best that its rule can find.
"""

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from training.config import TransformerConfig
from training.dalle.gradient_scales import GREATEST, LEAST, GradientScales
from training.dalle.precision import Precision, run_blocks_in
from training.losses import stream_loss
from training.models.transformer import Transformer

SPREADS = range(0, 57, 8)
SHOWN = 40
_CONFIG = TransformerConfig(depth=4, heads=4, head_width=16, convolution_kernel=3)
_TOKENS = {"text_vocabulary": 64, "text_length": 8, "image_vocabulary": 64, "grid": 4}
_ROWS = 8
Gradients = list[list[Tensor]]


def _model(spread: float, precision: Precision) -> tuple[Transformer, GradientScales | None]:
    torch.manual_seed(0)
    model = Transformer(_CONFIG, **_TOKENS)
    scales = run_blocks_in(precision, model.blocks, 1, torch.device("cpu"))
    last = len(model.blocks) - 1
    for i, block in enumerate(model.blocks):
        share = 2 ** (-spread * i / last)
        block.forward = functools.partial(_scaled, block.forward, share)
    return model, scales


def _scaled(inner: Callable[..., Tensor], share: float, *inputs: Tensor) -> Tensor:
    return inner(*inputs).float() * share


def _gradients(model: Transformer) -> Gradients:
    """Of every block's matrices, for the loss added up over a fixed batch."""
    draw = torch.Generator().manual_seed(1)
    text = torch.randint(64, (_ROWS, model.text_length), generator=draw)
    codes = torch.randint(64, (_ROWS, model.grid**2), generator=draw)
    model.zero_grad()
    nats = model(text, codes)
    (stream_loss(nats.text, nats.image, 1 / 8) * _ROWS * model.length).backward()
    return [
        [p.grad for p in block.parameters() if p.ndim == 2 and p.grad is not None]
        for block in model.blocks
    ]


def in_half(spread: float, per_block: bool) -> tuple[Gradients, list[float]]:
    """Gradients in fp16 with the greatest scales that fit, and those scales."""
    model, scales = _model(spread, Precision.FP16_PER_BLOCK)
    assert scales is not None
    values = [GREATEST] * len(model.blocks)
    while True:
        scales.tensor.copy_(torch.tensor(values))
        scales.filtered.zero_()
        found = _gradients(model)
        finite = [all(bool(g.isfinite().all()) for g in block) for block in found]
        bad = [f or not ok for f, ok in zip(scales.filtered.tolist(), finite, strict=True)]
        if not any(bad) or min(values) <= LEAST:
            return found, values
        fall = bad if per_block else [True] * len(bad)
        values = [v / 2 if falls else v for v, falls in zip(values, fall, strict=True)]


def compare(spread: float, per_block: bool) -> tuple[list[float], list[float]]:
    """Of each block, the share of gradient elements that underflow, and the gradient's error.

    Returns:
        Share of the elements that are zero in fp16 and not in fp32; norm of the difference from
        the fp32 gradient, relative to its norm (1 if nothing is left).
    """
    exact = _gradients(_model(spread, Precision.FP32)[0])
    half, values = in_half(spread, per_block)
    zeros, errors = [], []
    for wanted, found, scale in zip(exact, half, values, strict=True):
        g, h = (torch.cat([m.flatten() for m in block]) for block in (wanted, found))
        zeros.append(float(((h == 0) & (g != 0)).sum() / (g != 0).sum()))
        errors.append(float((h / scale - g).norm() / g.norm()))
    return zeros, errors


def _draw(errors: dict[int, tuple[list[float], list[float]]], to: Path) -> None:
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for i, name in enumerate(("one scale for all", "one a block")):
        blocks = errors[SHOWN][i]
        left.semilogy(range(len(blocks)), blocks, marker="o", label=name)
        right.semilogy(list(errors), [max(e[i]) for e in errors.values()], marker="o", label=name)
    left.set_title(f"the last block's gradients are 2^{SHOWN} times smaller", fontsize=10)
    left.set_xlabel("block")
    left.set_ylabel("relative error of a block's gradient")
    right.set_title("worst block", fontsize=10)
    right.set_xlabel("spread of the blocks' gradients, binades")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.savefig(to, dpi=90, format="png")


def main() -> None:
    """Print the worst block's figures, and draw the errors."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gradient_scales", description=__doc__
    )
    parser.add_argument("picture", type=Path, metavar="PICTURE", help="PNG to write")
    picture = parser.parse_args().picture
    torch.set_num_threads(1)
    errors: dict[int, tuple[list[float], list[float]]] = {}
    print("the worst block: elements that underflow, and the gradient's relative error")
    print(f"{'spread':>6} {'one scale for all':>20} {'one a block':>20}")
    for spread in SPREADS:
        one, each = (compare(spread, per_block) for per_block in (False, True))
        errors[spread] = one[1], each[1]
        cells = (f"{max(zeros):10.1%} {max(wrong):9.2%}" for zeros, wrong in (one, each))
        print(f"{spread:6}", *cells, flush=True)
    for per_block in (False, True):
        values = in_half(SHOWN, per_block)[1]
        print(f"log2 of the scales at {SHOWN}:", *(f"{math.log2(v):.0f}" for v in values))
    _draw(errors, picture)


if __name__ == "__main__":
    main()
