"""How much of a codebook is in use."""

import math

import torch
from torch import Tensor


def perplexity(codes: Tensor, vocabulary: int) -> tuple[float, int]:
    """Perplexity of the codes' frequencies, and how many codes occur."""
    share = torch.bincount(codes.flatten(), minlength=vocabulary) / codes.numel()
    used = share[share > 0]
    return math.exp(-float((used * used.log()).sum())), len(used)
