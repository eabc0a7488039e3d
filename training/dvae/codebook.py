"""How much of a codebook is in use, and what to do if it is little."""

import math

import torch
from torch import Tensor

COLLAPSE_ADVICE = (
    "the codebook collapsed. Let the temperature fall over more updates (a code that is never "
    "drawn while mixtures are warm is never trained); check that the KL weight suits the picture "
    "size (6.6 is for codes of 8x8 pixels); for drawings with flat grounds raise least_log_scale; "
    "for short runs set codebook_warmup. docs/dvae.md says how to tell which"
)


def perplexity(codes: Tensor, vocabulary: int) -> tuple[float, int]:
    """Perplexity of the codes' frequencies, and how many codes occur."""
    return usage(torch.bincount(codes.flatten(), minlength=vocabulary))


def usage(counts: Tensor) -> tuple[float, int]:
    """The same from counts of each code, integer [V]."""
    share = counts.double() / counts.sum().clamp(min=1)
    used = share[share > 0]
    return math.exp(-float((used * used.log()).sum())), len(used)
