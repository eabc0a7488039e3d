"""The transformer's step and its sampling, beside the peers and a matrix product.

minDALL-E is in no package registry. In docs/performance.md's table its step takes 2.91 s where
that of x-transformers takes 3.92, so 1.1 times its speed is 1.48 times x-transformers'.
"""

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
    step_of,
    x_transformers,
)


def training_step() -> Mark:
    """Forward and backward beside a matrix product of as many FLOP."""
    import torch

    from training.models.transformer import block_parameters

    model, step = _ours()
    heads = (TEXT + GRID**2) * WIDTH * VOCABULARY
    flop = 6 * BATCH * (block_parameters(model) * model.length + heads)
    side = 1024
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

    _, step = _ours()
    peer = x_transformers()
    tokens = torch.randint(2 * VOCABULARY, (BATCH, TEXT + GRID**2))
    seconds = compare(step, step_of(peer, lambda: peer(tokens)))
    return Mark("transformer step", *seconds, "x-transformers", 1.48)


def step_beside_dalle_pytorch() -> Mark:
    """The table's step with row, column and row layers."""
    _, step = _ours()
    peer = dalle_pytorch()
    text, codes = _tokens()
    seconds = compare(step, step_of(peer, lambda: peer(text, codes, return_loss=True)))
    return Mark("transformer step ", *seconds, "DALLE-pytorch", 2.3)


def generate_16() -> Mark:
    """16 pictures of one caption."""
    return _generation(16, 3.0)


def generate_64() -> Mark:
    """64 pictures of one caption."""
    return _generation(64, 4.5)


def _generation(candidates: int, least: float) -> Mark:
    import torch

    from training.drawing.sampling import sample_codes

    model, _ = _ours()
    text, _ = _tokens()
    peer = x_transformers()
    prompt = text[:1].expand(candidates, -1)

    def ours() -> None:
        list(sample_codes(model.eval(), text[:1], candidates))

    def theirs() -> None:
        with torch.inference_mode():
            # Its default keeps a share of the codes only; 1.0 and no filter is the paper's.
            peer.generate(prompt, GRID**2, cache_kv=True, filter_logits_fn=lambda x: x)

    seconds = compare(ours, theirs, rounds=1)
    return Mark(f"{candidates} pictures drawn", *seconds, "x-transformers, cached", least)


def _tokens() -> Any:
    import torch

    text = torch.randint(1, VOCABULARY - TEXT, (BATCH, TEXT))
    return text, torch.randint(VOCABULARY, (BATCH, GRID**2))


def _loss(nats: Any) -> Any:
    from training.losses import stream_loss

    return stream_loss(nats.text, nats.image, 1 / 8)


def _ours() -> tuple[Any, Callable[[], None]]:
    import torch

    from training.config import TransformerConfig
    from training.models.transformer import Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TransformerConfig(depth=DEPTH, heads=HEADS, head_width=WIDTH // HEADS)
    model = Transformer(config, VOCABULARY - TEXT, TEXT, VOCABULARY, GRID)
    text, codes = _tokens()
    return model, step_of(model, lambda: _loss(model(text, codes)))


MARKS = (
    training_step,
    step_beside_x_transformers,
    step_beside_dalle_pytorch,
    generate_16,
    generate_64,
)
