"""The sparse transformer of arXiv 2102.12092, section 2.2 and appendix B.1.

One decoder-only stream: start token, T text positions, G*G image codes; the state at each
position predicts the next token, so the last code is never an input.

`Transformer.blocks` lists the residual blocks in order, attention and MLP in turn. A block maps
the stream to what is added to it, x = x + block(x); the identity path lies outside, so that
precision, recomputation and sharding can be settled for each block (sections 2.4 and 2.5).

Shapes: B batch, T text positions, N = G*G image codes, L = T + N inputs, D width, H heads.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.config import TransformerConfig
from training.losses import linear_cross_entropy
from training.models.attention import Pattern, attention, reordered, split
from training.models.attention_masks import layer_kinds
from training.models.feed_forward import feed_forward


class Logits(NamedTuple):
    """Predictions: text [B, T, V_text + T] (a pad id per position), image [B, N, V_image]."""

    text: Tensor
    image: Tensor


class TokenNats(NamedTuple):
    """Mean nats per token of text (padding included) and of image, scalars in fp32."""

    text: Tensor
    image: Tensor


class AttentionBlock(nn.Module):
    """Pre-norm self-attention with one softmax over text and image keys together.

    Args:
        config: width and heads.
        pattern: what may attend to what.
    """

    def __init__(self, config: TransformerConfig, pattern: Pattern):
        super().__init__()
        self.heads, self.pattern = config.heads, pattern
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        y = attention(self._heads(reordered(self.norm(x), self.pattern)), self.pattern)
        return reordered(self.out(y.transpose(1, 2).flatten(2)), self.pattern)

    def project(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, S, D / H] of normalised states [B, S, D]."""
        return split(self._heads(normed))

    def _heads(self, normed: Tensor) -> Tensor:
        b, s, d = normed.shape
        return self.qkv(normed).view(b, s, 3, self.heads, d // self.heads)


class MLPBlock(nn.Module):
    """Pre-norm MLP of four times the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return feed_forward(self.norm(x), self.up, self.down)


class Transformer(nn.Module):
    """Text and image tokens in, nats or logits of the next token out.

    Args:
        config: depth and width.
        text_vocabulary: BPE ids, padding not counted; the id of the pad token of text position
            i is text_vocabulary + i (a learned token for each position, section 2.2).
        text_length: text positions T.
        image_vocabulary: entries of the dVAE's codebook.
        grid: image codes along one side.
    """

    def __init__(
        self,
        config: TransformerConfig,
        text_vocabulary: int,
        text_length: int,
        image_vocabulary: int,
        grid: int,
    ):
        super().__init__()
        self.config = config
        self.text_vocabulary, self.text_length = text_vocabulary, text_length
        self.image_vocabulary, self.grid = image_vocabulary, grid
        d = config.width
        self.text_embedding = nn.Embedding(text_vocabulary + text_length + 1, d)
        self.text_position = nn.Embedding(text_length + 1, d)
        self.image_embedding = nn.Embedding(image_vocabulary, d)
        self.row_embedding = nn.Embedding(grid, d)
        self.column_embedding = nn.Embedding(grid, d)
        self.blocks = nn.ModuleList(self._blocks())
        self.norm = nn.LayerNorm(d)
        self.text_head = nn.Linear(d, text_vocabulary + text_length)
        self.image_head = nn.Linear(d, image_vocabulary)
        if not self.image_head.weight.is_meta:
            self._initialise()

    @property
    def start_token(self) -> int:
        """Id of the token that begins every stream."""
        return self.text_vocabulary + self.text_length

    @property
    def length(self) -> int:
        """Inputs L of a whole stream: the start token, the text, all codes but the last."""
        return self.text_length + self.grid**2

    def _blocks(self) -> list[nn.Module]:
        # The start token is one more text position.
        text_length, kernel = self.text_length + 1, self.config.convolution_kernel
        return [
            block
            for kind in layer_kinds(self.config.depth)
            for block in (
                AttentionBlock(self.config, Pattern(kind, text_length, self.grid, kernel)),
                MLPBlock(self.config.width),
            )
        ]

    def _initialise(self) -> None:
        # The paper gives no initialisation: that of GPT-2, residual outputs scaled by depth.
        residual = 0.02 / math.sqrt(2 * self.config.depth)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=residual)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def pad_text(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Put each position's own pad id behind the text: ids [B, T], lengths [B] to [B, T]."""
        position = torch.arange(self.text_length, device=ids.device)
        return torch.where(position < lengths[:, None], ids, self.text_vocabulary + position)

    def embed_text(self, text: Tensor) -> Tensor:
        """Start token and padded text [B, T] to states [B, T + 1, D]."""
        start = text.new_full((text.shape[0], 1), self.start_token)
        tokens = torch.cat((start, text), dim=1)
        return self.text_embedding(tokens) + self.text_position.weight

    def embed_image(self, codes: Tensor, first: int = 0) -> Tensor:
        """Codes [B, S] at raster positions first ... first + S - 1 to states [B, S, D]."""
        position = torch.arange(first, first + codes.shape[1], device=codes.device)
        place = self.row_embedding(position // self.grid) + self.column_embedding(
            position % self.grid
        )
        return self.image_embedding(codes) + place

    def states(self, x: Tensor) -> Tensor:
        """Run the blocks over the embedded inputs of whole streams, [B, L, D]."""
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)

    def final_states(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """States that predict the text, [B, T, D], and the codes, [B, N, D]."""
        inputs = torch.cat((self.embed_text(text), self.embed_image(codes[:, :-1])), dim=1)
        text_states, image_states = self.states(inputs).split(
            (self.text_length, self.grid**2), dim=1
        )
        return text_states, image_states

    def logits(self, text: Tensor, codes: Tensor) -> Logits:
        """Predict every token of padded text [B, T] and codes [B, N] from those before it."""
        text_states, image_states = self.final_states(text, codes)
        with torch.autocast(text_states.device.type, enabled=False):
            return Logits(
                self.text_head(text_states.float()), self.image_head(image_states.float())
            )

    def forward(self, text: Tensor, codes: Tensor) -> TokenNats:
        """Nats of padded text [B, T] and codes [B, N], each token given those before it."""
        text_states, image_states = self.final_states(text, codes)
        with torch.autocast(text_states.device.type, enabled=False):
            return TokenNats(
                linear_cross_entropy(self.text_head, text_states, text),
                linear_cross_entropy(self.image_head, image_states, codes),
            )


def block_parameters(model: Transformer) -> int:
    """Parameters of the blocks: the paper's "12 billion" (appendix B.1)."""
    return sum(p.numel() for p in model.blocks.parameters())
