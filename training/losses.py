"""The training objectives of both stages."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.dvae import images_to_input


def logit_laplace_nll(maps: Tensor, images: Tensor, least_log_scale: float = -math.inf) -> Tensor:
    """Negative log-likelihood under the logit-Laplace density (appendix A.3, equation 2).

    Args:
        maps: mean and ln b, [B, 6, H, W].
        images: uint8 [B, 3, H, W].
        least_log_scale: ln b is not taken below it.

    Returns:
        Nats summed over pixels and channels, [B].
    """
    x = images_to_input(images)
    mean, log_b = maps.chunk(2, dim=1)
    log_b = log_b.clamp(min=least_log_scale)
    nll = math.log(2) + log_b + torch.log(x * (1 - x))
    nll = nll + (torch.logit(x) - mean).abs() * torch.exp(-log_b)
    return nll.sum((1, 2, 3))


def categorical_kl_to_uniform(logits: Tensor) -> Tensor:
    """KL(softmax(logits) || uniform over V) summed over the grid; [B, V, h, w] to nats [B].

    The posterior is untempered and without noise, also while the relaxation's temperature is
    positive (openai/DALL-E, issue 26).
    """
    log_q = torch.log_softmax(logits, dim=1)
    per_code = (log_q.exp() * log_q).sum(1) + math.log(logits.shape[1])
    return per_code.sum((1, 2))


def stream_loss(text: Tensor, image: Tensor, text_weight: float) -> Tensor:
    """Text and image cross-entropies, each a mean over its own tokens (section 2.2)."""
    return text_weight * text + (1 - text_weight) * image


def linear_cross_entropy(head: nn.Linear, states: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token of a head over states [B, S, D] and targets [B, S], in fp32.

    Logits exist for a chunk of the tokens at a time. The head's own `forward` is not called.
    """
    # Chunks that fit a CPU's cache; on CUDA torch's own choice.
    rows = 256 if states.device.type == "cpu" else None
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
    return F.linear_cross_entropy(
        states.flatten(0, 1).float(),
        head.weight.float(),
        targets.flatten(),
        linear_bias=head.bias.float(),
        options=options,
    )
