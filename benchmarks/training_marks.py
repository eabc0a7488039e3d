"""The transformer's step beside a matrix product of as many floating-point operations."""

from benchmarks.marks import Mark, compare


def training_step() -> Mark:
    """Forward and backward of the table's transformer beside a matrix product of as many FLOP."""
    import torch

    from training.config import TransformerConfig
    from training.losses import cross_entropy, stream_loss
    from training.models.transformer import Transformer, block_parameters

    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch, text_length, grid, vocabulary = 8, 80, 16, 8192
    config = TransformerConfig(depth=8, heads=8, head_width=32)
    model = Transformer(config, vocabulary - text_length, text_length, vocabulary, grid)
    text = torch.randint(vocabulary - text_length, (batch, text_length))
    codes = torch.randint(vocabulary, (batch, grid**2))

    def ours() -> None:
        logits = model(text, codes)
        losses = cross_entropy(logits.text, text), cross_entropy(logits.image, codes)
        stream_loss(*losses, 1 / 8).backward()

    heads = (text_length + grid**2) * config.width * vocabulary
    flop = 6 * batch * (block_parameters(model) * model.length + heads)
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    products = round(flop / (2 * side**3))

    def peer() -> None:
        for _ in range(products):
            a @ b

    seconds = compare(ours, peer)
    return Mark("transformer step, share of a matrix product", *seconds, "torch.matmul", 0.65)
