"""The sparse transformer of arXiv 2102.12092, section 2.2 and appendix B.1.

One decoder-only stream: start token, T text positions, G*G image codes; the state at each
position predicts the next token, so the last code is never an input.

Shapes: B batch, T text positions, N = G*G image codes, L = T + N inputs, D width, H heads.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import TransformerConfig
from training.models.attention_masks import attention_mask, layer_kinds


class Logits(NamedTuple):
    """Predictions: text [B, T, V_text + T] (a pad id per position), image [B, N, V_image]."""

    text: Tensor
    image: Tensor


class KeyValues(NamedTuple):
    """One layer's cache, [B, H, L, D / H] each."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Self-attention with one softmax over text and image keys together."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, cache: KeyValues | None, start: int) -> Tensor:
        """Attend from positions start ... start + S - 1.

        Args:
            x: states [B, S, D].
            mask: bool [S, start + S].
            cache: where keys and values are kept and found; without it start must be 0.
        """
        b, s, d = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache.keys[:, :, start : start + s] = k
            cache.values[:, :, start : start + s] = v
            k, v = cache.keys[:, :, : start + s], cache.values[:, :, : start + s]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(b, s, d))


class Block(nn.Module):
    """Pre-norm attention and MLP, each a residual block."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        d = config.width
        self.attention_norm = nn.LayerNorm(d)
        self.attention = Attention(d, config.heads)
        self.mlp_norm = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Tensor, mask: Tensor, cache: KeyValues | None, start: int) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask, cache, start)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """Text and image tokens in, logits of the next token out.

    Args:
        config: depth and width.
        text_vocabulary: BPE ids, padding not counted; the id of the pad token of text position
            i is text_vocabulary + i (a learned token for each position, section 2.2).
        text_length: text positions T.
        image_vocabulary: entries of the dVAE's codebook.
        grid: image codes along one side.
    """

    masks: Tensor

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
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d)
        self.text_head = nn.Linear(d, text_vocabulary + text_length)
        self.image_head = nn.Linear(d, image_vocabulary)
        self.kinds = layer_kinds(config.depth)
        self._add_masks()
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

    def _add_masks(self) -> None:
        unique = sorted(set(self.kinds))
        self._mask_index = [unique.index(kind) for kind in self.kinds]
        with torch.device("cpu"):
            whole = [
                # The start token is one more text position.
                attention_mask(k, self.text_length + 1, self.grid, self.config.convolution_kernel)[
                    : self.length, : self.length
                ]
                for k in unique
            ]
        self.register_buffer("masks", torch.stack(whole), persistent=False)

    def _initialise(self) -> None:
        # The paper gives no initialisation: that of GPT-2, residual outputs scaled by depth.
        residual = 0.02 / math.sqrt(2 * self.config.depth)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.2.weight")):
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

    def states(self, x: Tensor, caches: list[KeyValues] | None = None, start: int = 0) -> Tensor:
        """Run the blocks over embedded inputs [B, S, D] at positions start ... start + S - 1."""
        stop = start + x.shape[1]
        for i, block in enumerate(self.blocks):
            mask = self.masks[self._mask_index[i], start:stop, :stop]
            x = block(x, mask, None if caches is None else caches[i], start)
        return self.norm(x)

    def forward(self, text: Tensor, codes: Tensor) -> Logits:
        """Predict every token of padded text [B, T] and codes [B, N] from those before it."""
        inputs = torch.cat((self.embed_text(text), self.embed_image(codes[:, :-1])), dim=1)
        x = self.states(inputs)
        t = self.text_length
        with torch.autocast(x.device.type, enabled=False):
            return Logits(self.text_head(x[:, :t].float()), self.image_head(x[:, t:].float()))

    def empty_caches(self, batch: int) -> list[KeyValues]:
        """Caches for a whole stream, one a layer."""
        d = self.config.head_width
        like = self.image_head.weight
        shape = (batch, self.config.heads, self.length, d)
        return [KeyValues(like.new_zeros(shape), like.new_zeros(shape)) for _ in self.blocks]


def block_parameters(model: Transformer) -> int:
    """Parameters of the blocks: the paper's "12 billion" (appendix B.1)."""
    return sum(p.numel() for p in model.blocks.parameters())
