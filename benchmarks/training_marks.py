"""The transformer's step, beside the peers and a matrix product.

minDALL-E is compared with where MINDALLE names a checkout of it. In docs/performance.md's table its
step takes 2.91 s where that of x-transformers takes 3.92, so 1.1 times its speed is 1.48 times
x-transformers'.
"""

import os
from collections.abc import Callable
from typing import Any

from benchmarks.marks import Mark, compare
from benchmarks.training_peers import (
    BATCH,
    DEPTH,
    GRID,
    HEADS,
    TEXT,
    VOCABULARY,
    WIDTH,
    dalle_pytorch,
    mindalle,
    step_of,
    x_transformers,
)


def training_step() -> Mark:
    """Forward and backward beside products of 1024 x 1024 fp32 matrices of as many FLOP.

    FLOP are the model's, as for the MFU on a GPU: of attention, the pairs that the masks allow.
    """
    import torch

    from training.dalle.flops import model_flops

    model, step = ours()
    flop, side = model_flops(model, BATCH), 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    products = round(flop / (2 * side**3))

    def peer() -> None:
        for _ in range(products):
            a @ b

    seconds = compare(step, peer)
    return Mark("transformer step, share of a matrix product", *seconds, "torch.matmul", 0.65)


def step_beside_x_transformers() -> Mark:
    """The table's step; the fastest peer that a registry has."""
    import torch

    _, step = ours()
    peer = x_transformers()
    tokens = torch.randint(2 * VOCABULARY, (BATCH, TEXT + GRID**2))
    seconds = compare(step, step_of(peer, lambda: peer(tokens)))
    return Mark("transformer step", *seconds, "x-transformers", 1.48)


def step_beside_dalle_pytorch() -> Mark:
    """The table's step with row, column and row layers."""
    _, step = ours()
    peer = dalle_pytorch()
    text, codes = tokens()
    seconds = compare(step, step_of(peer, lambda: peer(text, codes, return_loss=True)))
    return Mark("transformer step ", *seconds, "DALLE-pytorch", 2.3)


def step_beside_mindalle() -> Mark:
    """The table's step; the fastest peer of all."""
    _, step = ours()
    peer, loss = mindalle()
    text, codes = tokens()
    seconds = compare(step, step_of(peer, lambda: loss(text, codes)))
    return Mark("transformer step  ", *seconds, "minDALL-E", 1.1)


def tokens() -> Any:
    """Text ids [8, 80] and codes [8, 256]."""
    import torch

    text = torch.randint(1, VOCABULARY - TEXT, (BATCH, TEXT))
    return text, torch.randint(VOCABULARY, (BATCH, GRID**2))


def _loss(nats: Any) -> Any:
    from training.losses import stream_loss

    return stream_loss(nats.text, nats.image, 1 / 8)


def ours() -> tuple[Any, Callable[[], None]]:
    """Our transformer and its step."""
    import torch

    from training.config import TransformerConfig
    from training.models.transformer import Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TransformerConfig(depth=DEPTH, heads=HEADS, head_width=WIDTH // HEADS)
    model = Transformer(config, VOCABULARY - TEXT, TEXT, VOCABULARY, GRID)
    text, codes = tokens()
    return model, step_of(model, lambda: _loss(model(text, codes)))


MARKS = (
    training_step,
    step_beside_x_transformers,
    step_beside_dalle_pytorch,
    *([step_beside_mindalle] if "MINDALLE" in os.environ else []),
)
