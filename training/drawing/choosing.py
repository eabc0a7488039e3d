"""How a code is chosen from its logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import InputError

_MOST = 1e6


@dataclass(frozen=True)
class SamplingOptions:
    """How a code is chosen; the defaults are the paper's (section 2.6).

    Attributes:
        temperature: of the softmax.
        top_k: only so many of the likeliest codes; 0 for all.
        top_p: only the likeliest codes that together have this probability; 1 for all.
        guidance: logits are extrapolated from those without a caption by this factor; 1 for none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        # Beyond these bounds, logits overflow or are equal.
        if not 1 / _MOST <= self.temperature <= _MOST:
            raise InputError(
                f"temperature must be within {1 / _MOST:g} and {_MOST:g}, got {self.temperature}"
            )
        if self.top_k < 0:
            raise InputError(f"top_k must be at least 1, or 0 for all codes; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")
        if not abs(self.guidance) <= _MOST:
            raise InputError(f"guidance must be within ±{_MOST:g}, got {self.guidance}")

    @property
    def guided(self) -> bool:
        """Whether logits without a caption are needed."""
        return self.guidance != 1

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [B, V] of the distribution that is sampled; -inf where a code is ruled out."""
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p < 1:
            ordered, codes = logits.sort(dim=-1, descending=True)
            shares = ordered.softmax(-1)
            # A code stays if those before it have not reached top_p yet; the first always does.
            beyond = shares.cumsum(-1) - shares >= self.top_p
            beyond[:, 0] = False
            logits = logits.masked_fill(beyond.scatter(1, codes, beyond), -math.inf)
        return logits


def groups(vocabulary: int) -> tuple[int, int]:
    """Groups that the codes are chosen by, and codes of a group: as near each other as divides."""
    fewer = next(n for n in range(math.isqrt(vocabulary), 0, -1) if vocabulary % n == 0)
    return fewer, vocabulary // fewer


def chosen(scores: Tensor, noise: Tensor) -> Tensor:
    """Codes [B] drawn from the softmax of scores [B, V].

    A group is drawn by the probability of its codes together, then one of its codes. Each is a
    race of exponential clocks, the same distribution as multinomial without a sort or a
    synchronisation; unlike a search in cumulated probabilities, hardly any race is so close that
    rounding decides it. So a code takes noise of about 2 sqrt(V) clocks instead of V.

    Args:
        scores: -inf rules a code out.
        noise: exponential, [B, sum(groups(V))].
    """
    count, size = groups(scores.shape[-1])
    shares = scores.softmax(-1).unflatten(-1, (count, size))
    of_groups, of_codes = noise.split((count, size), dim=-1)
    group = (shares.sum(-1) / of_groups).argmax(-1)
    inside = shares.gather(1, group[:, None, None].expand(-1, 1, size)).squeeze(1)
    return group * size + (inside / of_codes).argmax(-1)


def noise_of(streams: list[int], positions: int, vocabulary: int, device: torch.device) -> Tensor:
    """Noise for `chosen`, [streams, positions, sum(groups(V))], each stream's from its own seed."""
    drawn = torch.empty(len(streams), positions, sum(groups(vocabulary)), device=device)
    for row, seed in zip(drawn, streams, strict=True):
        row.exponential_(generator=torch.Generator(device).manual_seed(seed))
    # A clock of zero would win at no probability at all.
    return drawn.clamp_(min=torch.finfo(drawn.dtype).tiny)
