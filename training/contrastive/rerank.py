"""Reranking of drawn pictures by a contrastive model (arXiv 2102.12092, section 2.6)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.contrastive.checkpoint import load_embedder

# Pictures uint8 [N, 3, H, W] of any size and one caption to scores float32 [N]: the greater, the
# better the match.
Ranker = Callable[[Tensor, str], Tensor]


def load_ranker(path: str | Path, device: torch.device | str = "cpu") -> Ranker:
    """Cosine similarity by our own model or an open_clip checkpoint (`checkpoint.py`).

    Raises:
        ModelError: if there is no such model, or its files do not fit together.
    """
    embedder = load_embedder(Path(path), device)

    def rank(images: Tensor, caption: str) -> Tensor:
        return embedder.images(images) @ embedder.captions([caption])[0]

    return rank


def reranked(pictures: Tensor, captions: Sequence[str], rank: Ranker) -> tuple[Tensor, Tensor]:
    """The candidates of each caption, the best first.

    Args:
        pictures: uint8 [captions, candidates, 3, H, W].
        captions: one for each row of candidates.
        rank: scores them.

    Returns:
        The pictures in their new order, and their scores float32 [captions, candidates].
    """
    scores = torch.stack([rank(row, c) for row, c in zip(pictures, captions, strict=True)])
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return pictures[torch.arange(len(pictures))[:, None], order], scores
