"""What a dVAE in training is worth on pictures that it is not trained on (section 2.1).

Training maximises a relaxed bound, whose codes are mixtures at a positive temperature; the second
stage and every reconstruction use whole codes. Both are computed with the same noise, so that
their difference is that of the relaxation.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from training.drawing.pictures import contact_sheet, to_images
from training.dvae.codebook import perplexity
from training.losses import categorical_kl_to_uniform, logit_laplace_nll
from training.models.dvae import DVAE

# Floats of one Gumbel noise tensor, the largest of a pass: 256 MiB.
_NOISE = 2**26
_SHOWN = 8


class Bound(NamedTuple):
    """Means over pictures, in nats per pixel and channel; `kl_per_code` in nats per code.

    relaxed and true: the negative evidence lower bound (less is better) with mixtures of codes at
    the temperature, and with whole codes drawn from the posterior.
    """

    relaxed: float
    true: float
    kl_per_code: float

    @property
    def gap(self) -> float:
        """What the relaxation flatters."""
        return self.true - self.relaxed


def chunks(model: DVAE, images: Tensor) -> tuple[Tensor, ...]:
    """Pictures in parts whose code logits fit into memory."""
    numbers = model.config.vocabulary * model.config.grid**2
    return images.split(max(1, min(64, _NOISE // numbers)))


@torch.no_grad()
def bound(
    model: DVAE,
    images: Tensor,
    temperature: float,
    kl_weight: float,
    least_log_scale: float,
    seed: int = 0,
) -> Bound:
    """The relaxed and the true bound of uint8 [B, 3, H, W], with one draw of noise.

    Args:
        model: on any device.
        images: pictures, brought to the device in parts.
        temperature: of the relaxed pass.
        kl_weight: beta, as the loss has it.
        least_log_scale: floor of ln b, as the loss has it.
        seed: of the noise.
    """
    device = model.encoder.input.weight.device
    draw = torch.Generator(device).manual_seed(seed)
    relaxed = true = kl = 0.0
    for part in chunks(model, images):
        part = part.to(device)
        logits = model.logits(part)
        noisy = logits - torch.empty_like(logits).exponential_(generator=draw).log()
        soft = model.decoder(torch.softmax(noisy / temperature, 1))
        relaxed += float(logit_laplace_nll(soft, part, least_log_scale).sum())
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        whole = model.decoder.from_codes(noisy.argmax(1))
        true += float(logit_laplace_nll(whole, part, least_log_scale).sum())
        kl += float(categorical_kl_to_uniform(logits).sum())
    per_number = 1 / images.numel()
    cost = kl_weight * kl * per_number
    codes = len(images) * model.config.grid**2
    return Bound(relaxed * per_number + cost, true * per_number + cost, kl / codes)


class Validation:
    """The same pictures, measured again and again while a run goes on.

    Args:
        images: uint8 [B, 3, S, S] that no update sees.
        least_log_scale: as the loss has it.
    """

    def __init__(self, images: Tensor, least_log_scale: float):
        self._images, self._floor = images, least_log_scale

    def measure(
        self, model: DVAE, temperature: float, kl_weight: float, picture: Path
    ) -> dict[str, float]:
        """Bounds and codebook use; draws reconstructions below their originals into `picture`."""
        found = bound(model, self._images, temperature, kl_weight, self._floor)
        device = model.encoder.input.weight.device
        codes = torch.cat([model.tokens(part.to(device)) for part in chunks(model, self._images)])
        spread, _ = perplexity(codes, model.config.vocabulary)
        shown = self._images[:_SHOWN]
        restored = model.reconstruct(codes[:_SHOWN]).cpu()
        rows = [("", to_images(shown)), ("", to_images(restored))]
        contact_sheet(rows, picture, scale=1)
        return {
            "relaxed": found.relaxed,
            "true": found.true,
            "validation_kl_per_code": found.kl_per_code,
            "validation_perplexity": spread,
        }
