"""The discrete variational autoencoder of arXiv 2102.12092, section 2.1 and appendix A.1.

Shapes: B batch, H W image in pixels, h w code grid, V codebook entries.
Pixels in [0, 1] are mapped away from the borders before the logit (`map_pixels`).
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import DVAEConfig

EPSILON = 0.1  # appendix A.3


def map_pixels(x: Tensor) -> Tensor:
    """[0, 1] to [eps, 1 - eps], where the logit is finite (appendix A.3, equation 3)."""
    return (1 - 2 * EPSILON) * x + EPSILON


def unmap_pixels(x: Tensor) -> Tensor:
    """Inverse of `map_pixels`, clamped to [0, 1]."""
    return ((x - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def images_to_input(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to the encoder's input."""
    return map_pixels(images.float() / 255)


def convolution(n_in: int, n_out: int, kernel: int) -> nn.Conv2d:
    """A same-size convolution with weights N(0, 1 / (n_in kernel^2)) and bias 0."""
    conv = nn.Conv2d(n_in, n_out, kernel, padding=(kernel - 1) // 2)
    if not conv.weight.is_meta:
        nn.init.normal_(conv.weight, std=1 / math.sqrt(n_in * kernel**2))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class Block(nn.Module):
    """Bottleneck residual block: id(x) + post_gain * res(x).

    The encoder's ends, and the decoder's begins, with the 1x1 convolution: the side that faces
    the relaxation has the smaller receptive field.
    """

    def __init__(self, n_in: int, n_out: int, kernels: tuple[int, ...], post_gain: float):
        super().__init__()
        n_mid = n_out // 4
        widths = [n_in, *[n_mid] * (len(kernels) - 1), n_out]
        layers: list[nn.Module] = []
        for kernel, a, b in zip(kernels, widths[:-1], widths[1:], strict=True):
            layers += [nn.ReLU(), convolution(a, b, kernel)]
        self.id_path = convolution(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.res_path = nn.Sequential(*layers)
        self.post_gain = post_gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.id_path(x), self.res_path(x), alpha=self.post_gain)


def _groups(
    widths: list[int], blocks: int, kernels: tuple[int, ...], between: type[nn.Module]
) -> nn.Sequential:
    post_gain = 1 / ((len(widths) - 1) * blocks) ** 2
    groups: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        ins = [n_in, *[n_out] * (blocks - 1)]
        group: list[nn.Module] = [Block(n, n_out, kernels, post_gain) for n in ins]
        if i < len(widths) - 2:
            group.append(between())
        groups.append(nn.Sequential(*group))
    return nn.Sequential(*groups)


class _Pool(nn.MaxPool2d):
    def __init__(self) -> None:
        super().__init__(2)  # max-pooling gave a better bound than average-pooling (A.1)


class _Upsample(nn.Upsample):
    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="nearest")


class Encoder(nn.Module):
    """Image [B, 3, H, W] to code logits [B, V, h, w]; the last convolution runs in fp32."""

    def __init__(self, config: DVAEConfig):
        super().__init__()
        widths = [config.hidden * 2 ** max(i - 1, 0) for i in range(config.groups + 1)]
        self.input = convolution(3, widths[0], 7)
        self.groups = _groups(widths, config.blocks_per_group, (3, 3, 3, 1), _Pool)
        self.output = convolution(widths[-1], config.vocabulary, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.groups(self.input(x)))
        with torch.autocast(x.device.type, enabled=False):
            return self.output(x.float())


class Decoder(nn.Module):
    """(Relaxed) one-hot codes [B, V, h, w] to mean and ln b maps [B, 6, H, W]."""

    def __init__(self, config: DVAEConfig):
        super().__init__()
        wide = [config.hidden * 2**i for i in reversed(range(config.groups))]
        self.input = convolution(config.vocabulary, config.decoder_init, 1)
        widths = [config.decoder_init, *wide]
        self.groups = _groups(widths, config.blocks_per_group, (1, 3, 3, 3), _Upsample)
        self.output = convolution(wide[-1], 6, 1)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            x = self.input(z.float())
        return self._rest(x)

    def from_codes(self, codes: Tensor) -> Tensor:
        """As `forward` of the codes' one-hot form: a lookup instead of a V-wide product."""
        table = self.input.weight.flatten(1).t()
        x = F.embedding(codes, table)
        if self.input.bias is not None:
            x = x + self.input.bias
        return self._rest(x.permute(0, 3, 1, 2))

    def _rest(self, x: Tensor) -> Tensor:
        x = self.output(F.relu(self.groups(x)))
        return x.float()


class Relaxed(NamedTuple):
    """One training pass: likelihood maps [B, 6, H, W] and code logits [B, V, h, w]."""

    maps: Tensor
    logits: Tensor


class DVAE(nn.Module):
    """Encoder and decoder; `forward` is the relaxed pass that training needs."""

    def __init__(self, config: DVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor, temperature: float, gumbel: Tensor) -> Relaxed:
        """Decode a Gumbel-softmax sample of the posterior.

        Args:
            images: uint8 [B, 3, H, W].
            temperature: of the relaxation.
            gumbel: standard Gumbel noise [B, V, h, w]; an argument, so that runs repeat.
        """
        logits = self.encoder(images_to_input(images))
        z = torch.softmax((logits + gumbel) / temperature, dim=1)
        return Relaxed(self.decoder(z), logits)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to fp32 code logits [B, V, h, w]."""
        return self.encoder(images_to_input(images))

    @torch.inference_mode()
    def tokens(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to codes, int64 [B, h, w]: the most likely one, no noise."""
        return self.logits(images).argmax(1)

    @torch.inference_mode()
    def reconstruct(self, tokens: Tensor) -> Tensor:
        """Codes [B, h, w] to uint8 [B, 3, H, W]; ln b is ignored (A.3)."""
        mean = self.decoder.from_codes(tokens)[:, :3]
        return (unmap_pixels(torch.sigmoid(mean)) * 255).round().to(torch.uint8)
