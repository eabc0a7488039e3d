"""A small residual network of the transformer's form, for tests of how its blocks are run."""

# ruff: noqa: TID253 - a helper of the training tests

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """One residual block without its identity path."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down(nn.functional.gelu(self.up(self.norm(x))))
        return hidden


class Residual(nn.Module):
    """x = x + block(x), in fp32 between a linear embedding and a linear head."""

    def __init__(self, depth: int = 4, width: int = 16, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Mlp(width) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(x)
        result: Tensor = self.head(x)
        return result


def batch(rows: int = 32, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs [rows, 8] and classes [rows]."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 8, generator=draw),
        torch.randint(0, 3, (rows,), generator=draw),
    )


def backward(model: nn.Module, share: float = 1.0) -> float:
    """Cross-entropy of `batch()` times `share`, with its gradients."""
    inputs, classes = batch()
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), classes)
    (loss * share).backward()
    return float(loss.detach())
