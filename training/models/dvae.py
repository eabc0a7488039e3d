"""The discrete variational autoencoder of arXiv 2102.12092, section 2.1 and appendix A.1.

Shapes: B batch, H W image in pixels, h w code grid, V codebook entries.
Pixels in [0, 1] are mapped away from the borders before the logit (`map_pixels`).
"""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.config import DVAEConfig
from training.models import openai_dvae
from training.models.openai_dvae import LayoutError

EPSILON = 0.1  # appendix A.3


def map_pixels(x: Tensor) -> Tensor:
    """[0, 1] to [eps, 1 - eps], where the logit is finite (appendix A.3, equation 3)."""
    return (1 - 2 * EPSILON) * x + EPSILON


def unmap_pixels(x: Tensor) -> Tensor:
    """Inverse of `map_pixels`, clamped to [0, 1]."""
    return ((x - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def images_to_input(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to the encoder's input.

    Raises:
        ValueError: if they are of another type, whose range is not known.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}; scale them to 0 ... 255")
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
        self.recompute = False

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._add, x, use_reentrant=False)
        return self._add(x)

    def _add(self, x: Tensor) -> Tensor:
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

    @classmethod
    def from_openai(
        cls, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], image_size: int = 256
    ) -> "DVAE":
        """The model of two state dictionaries in the layout of OpenAI's release.

        Args:
            encoder: its state dictionary (`training.models.openai_dvae`).
            decoder: its state dictionary.
            image_size: side of the square images that it is for, in pixels.

        Raises:
            LayoutError: if they are not of that layout, or not of one model.
        """
        with torch.device("meta"):
            model = cls(openai_dvae.config_of(encoder, decoder, image_size))
        model.to_empty(device="cpu")
        for part, state in ((model.encoder, encoder), (model.decoder, decoder)):
            named = {openai_dvae.from_openai_name(name): w for name, w in state.items()}
            try:
                part.load_state_dict(named)
            except RuntimeError as error:
                raise LayoutError(f"not a dVAE of OpenAI's layout: {error}") from error
        return model.eval()

    def to_openai(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The encoder's and the decoder's state dictionary in the layout of OpenAI's release."""
        return tuple(  # type: ignore[return-value]
            {openai_dvae.to_openai_name(name): p.detach() for name, p in part.named_parameters()}
            for part in (self.encoder, self.decoder)
        )

    def recompute_activations(self) -> None:
        """Keep only each block's input for the backward pass, and compute the rest again."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = True

    def forward(self, images: Tensor, temperature: float | Tensor, gumbel: Tensor) -> Relaxed:
        """Decode a Gumbel-softmax sample of the posterior.

        Args:
            images: uint8 [B, 3, H, W].
            temperature: of the relaxation; a tensor [] in compiled runs, which a number that
                changes would compile anew.
            gumbel: standard Gumbel noise [B, V, h, w]; an argument, so that runs repeat.
        """
        logits = self.logits(images)
        z = torch.softmax((logits + gumbel) / temperature, dim=1)
        return Relaxed(self.decoder(z), logits)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to fp32 code logits [B, V, h, w].

        Raises:
            ValueError: if the images are not uint8, or their sides no multiples of H / h.
        """
        step = self.config.downsampling
        if images.shape[2] % step or images.shape[3] % step:
            raise ValueError(
                f"images of {images.shape[2]}x{images.shape[3]} have no whole grid of codes; crop "
                f"their sides to multiples of {step}"
            )
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
