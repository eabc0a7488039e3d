"""The image-text model of CLIP (arXiv 2103.00020, section 2.4), in open_clip's layout of weights.

A vision transformer and a causal text transformer map into one space, where the cosine of the
angle says how well an image and a caption match. The names of the weights are those of open_clip
(`visual.conv1.weight`, `transformer.resblocks.0.attn.in_proj_weight` ...), so that one class holds
our own models and its checkpoints.

Shapes: B batch, S positions, D width of a tower, E width of the joint space.
"""

import math
from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ContrastiveConfig, TowerConfig

# The temperature begins at 0.07, and the logits are never scaled by more (section 2.5).
_FIRST_SCALE = math.log(1 / 0.07)
_GREATEST_SCALE = math.log(100)


class Embedded(NamedTuple):
    """Unit vectors of images [B, E] and captions [B, E], and what their products are scaled by."""

    images: Tensor
    captions: Tensor
    scale: Tensor


class QuickGELU(nn.Module):
    """The activation of OpenAI's own weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention over [B, S, D]; the weights are named as in `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, s, d = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(y.transpose(1, 2).reshape(b, s, d))


class Block(nn.Module):
    """Pre-norm attention and MLP, each a residual block."""

    def __init__(self, config: TowerConfig, quick_gelu: bool, causal: bool):
        super().__init__()
        d, hidden = config.width, int(config.width * config.mlp_ratio)
        self.ln_1 = nn.LayerNorm(d)
        self.attn = Attention(d, config.heads, causal)
        self.ln_2 = nn.LayerNorm(d)
        widen, narrow = nn.Linear(d, hidden), nn.Linear(hidden, d)
        activation = QuickGELU() if quick_gelu else nn.GELU()
        self.mlp = nn.Sequential(
            OrderedDict([("c_fc", widen), ("gelu", activation), ("c_proj", narrow)])
        )
        # OpenAI's published initialisation of the text tower, for both towers.
        residual = d**-0.5 * (2 * config.layers) ** -0.5
        for weight, std in (
            (self.attn.in_proj_weight, d**-0.5),
            (self.attn.out_proj.weight, residual),
            (widen.weight, (2 * d) ** -0.5),
            (narrow.weight, residual),
        ):
            nn.init.normal_(weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    """A tower's blocks, one after the other."""

    def __init__(self, config: TowerConfig, quick_gelu: bool, causal: bool):
        super().__init__()
        blocks = (Block(config, quick_gelu, causal) for _ in range(config.layers))
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class ImageTower(nn.Module):
    """Normalised images [B, 3, side, side] to vectors [B, E], read at the class token."""

    def __init__(self, config: ContrastiveConfig):
        super().__init__()
        d, patches = config.image.width, (config.image_size // config.patch) ** 2
        self.conv1 = nn.Conv2d(3, d, config.patch, stride=config.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(d))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, d))
        self.ln_pre = nn.LayerNorm(d)
        self.transformer = Blocks(config.image, config.quick_gelu, causal=False)
        self.ln_post = nn.LayerNorm(d)
        self.proj = nn.Parameter(torch.empty(d, config.embedding))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat((first, x), dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class Contrastive(nn.Module):
    """Both towers.

    Args:
        config: their shapes.
        vocabulary: text ids; the greatest one ends every text, and is where the tower is read.
        context: text positions, those of the start and of the end included.
    """

    def __init__(self, config: ContrastiveConfig, vocabulary: int, context: int):
        super().__init__()
        self.config, self.vocabulary, self.context = config, vocabulary, context
        d = config.text.width
        self.visual = ImageTower(config)
        self.transformer = Blocks(config.text, config.quick_gelu, causal=True)
        self.token_embedding = nn.Embedding(vocabulary, d)
        self.positional_embedding = nn.Parameter(torch.empty(context, d))
        self.ln_final = nn.LayerNorm(d)
        self.text_projection = nn.Parameter(torch.empty(d, config.embedding))
        self.logit_scale = nn.Parameter(torch.tensor(_FIRST_SCALE))
        self._initialise()

    def embed_images(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, side, side] to unit vectors [B, E] in fp32."""
        return F.normalize(self.visual(images).float(), dim=-1)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Text ids [B, context], zero behind the end, to unit vectors [B, E] in fp32."""
        x = self.token_embedding(ids) + self.positional_embedding
        x = self.ln_final(self.transformer(x))
        x = x[torch.arange(len(x), device=x.device), ids.argmax(dim=-1)]
        return F.normalize((x @ self.text_projection).float(), dim=-1)

    def forward(self, images: Tensor, ids: Tensor) -> Embedded:
        """Embed a batch of pairs."""
        return Embedded(self.embed_images(images), self.embed_text(ids), self.logit_scale.exp())

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Keep the logits from being scaled by more than 100; call it after every update."""
        self.logit_scale.clamp_(max=_GREATEST_SCALE)

    def _initialise(self) -> None:
        """As OpenAI's code; what is not named here was begun by its own module."""
        for parameter, width in (
            (self.visual.class_embedding, self.config.image.width),
            (self.visual.positional_embedding, self.config.image.width),
            (self.visual.proj, self.config.image.width),
            (self.text_projection, self.config.text.width),
        ):
            nn.init.normal_(parameter, std=width**-0.5)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)


def contrastive_loss(embedded: Embedded, captions: Tensor, images: Tensor, first: int) -> Tensor:
    """Cross-entropy of each pair against a whole batch, both ways (section 2.3, figure 3).

    Args:
        embedded: this process's pairs, B of them.
        captions: of the whole batch, [N, E], N >= B.
        images: of the whole batch, [N, E].
        first: where this process's pairs begin in the whole batch.

    Returns:
        Nats, the mean of both directions over this process's pairs.
    """
    own = torch.arange(first, first + len(embedded.images), device=captions.device)
    to_captions = embedded.scale * embedded.images @ captions.T
    to_images = embedded.scale * embedded.captions @ images.T
    return (F.cross_entropy(to_captions, own) + F.cross_entropy(to_images, own)) / 2
