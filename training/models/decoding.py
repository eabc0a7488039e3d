"""Decoding with caches as small as each mask allows.

The text's keys and values are computed once and shared by all candidates of a caption. Of the
image a row layer keeps a ring of G + 1 positions, a convolution a ring of its reach + 1 (5 * G + 6
for 11x11), a column layer everything, column by column, and reads its column only. A step has
static shapes and takes its position as a tensor, so that it compiles and can be captured.

Shapes: A captions, K candidates of each, B = A * K streams in this order, H heads, E head width,
N = A * H, T text positions with the start token, G side of the grid, R slots that a step reads.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.attention import Pattern
from training.models.transformer import AttentionBlock, Transformer


def slots(pattern: Pattern) -> int:
    """Slots R of the image cache that a step of this layer reads."""
    return pattern.grid if pattern.transposed else pattern.reach + 1


def kept(pattern: Pattern) -> int:
    """Image positions that this layer's cache keeps for a stream."""
    return slots(pattern) * (pattern.grid if pattern.transposed else 1)


def bytes_per_stream(model: Transformer) -> int:
    """Memory of one more candidate: its caches, and the logits of its next code."""
    width, item = model.config.width, model.image_head.weight.element_size()
    blocks = [b for b in model.blocks if isinstance(b, AttentionBlock)]
    return sum(2 * kept(b.pattern) * width * item for b in blocks) + 16 * model.image_vocabulary


def bytes_per_caption(model: Transformer) -> int:
    """Memory of one more caption: its text's caches, what makes them, and the logits behind it."""
    width, item = model.config.width, model.image_head.weight.element_size()
    layers = sum(isinstance(block, AttentionBlock) for block in model.blocks)
    # Beside the caches of all layers, one block's widest states: four times the model's.
    states = (2 * layers + 4 + 1) * (model.text_length + 1) * width * item
    return states + 4 * model.image_vocabulary


def for_few_rows(model: Transformer) -> Transformer:
    """The model, for products of few rows.

    On a CPU these read a weight up to 1.5 times as fast if it lies as [in, out] in memory. There
    its products get such copies; everything else is shared.
    """
    if model.image_head.weight.device.type != "cpu":
        return model
    with torch.device("meta"):
        twin = Transformer(
            model.config,
            model.text_vocabulary,
            model.text_length,
            model.image_vocabulary,
            model.grid,
        )
    twin.load_state_dict(model.state_dict(), assign=True)
    for layer in (*twin.blocks.modules(), twin.image_head):
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.mT.contiguous().mT, requires_grad=False)
    return twin.eval()


@functools.cache
def _visible(pattern: Pattern) -> Tensor:
    """0 where a step sees a slot and -inf elsewhere, [G * G, R]."""
    g, t = pattern.grid, pattern.text_length
    position = torch.arange(g * g)[:, None]
    slot = torch.arange(slots(pattern))[None, :]
    if pattern.transposed:
        key = slot * g + position % g
    else:
        # What the slot holds: the last position not after the step's with this remainder.
        key = position - (position - slot) % slots(pattern)
    query = pattern.place(t + position)
    seen = (key >= 0) & pattern.allows(query, pattern.place(t + key.clamp(min=0)))
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))


class _Cache(nn.Module):
    """Keys and values of one layer: text [2, A, H, T, E], image [2, A, H, K, kept, E].

    The text's keys are divided by the square root of E.
    """

    text: Tensor
    image: Tensor
    visible: Tensor

    def __init__(self, block: AttentionBlock, captions: int, candidates: int):
        super().__init__()
        self.pattern, like = block.pattern, block.qkv.weight
        e = like.shape[1] // block.heads
        text = (2, captions, block.heads, self.pattern.text_length, e)
        image = (2, captions, block.heads, candidates, kept(self.pattern), e)
        self.register_buffer("text", like.new_zeros(text))
        self.register_buffer("image", like.new_zeros(image))
        self.register_buffer("visible", _visible(self.pattern).to(like))

    def keep(self, kv: Tensor, position: Tensor) -> Tensor:
        """Store [2, A, H, K, E] of image position [1]; return what a step reads, [..., R, E]."""
        g = self.pattern.grid
        transposed = self.pattern.transposed
        column = position % g
        slot = column * g + position // g if transposed else position % slots(self.pattern)
        image = self.image.index_copy_(4, slot, kv.unsqueeze(4))
        if not transposed:
            return image
        return image.unflatten(4, (g, g)).index_select(4, column).squeeze(4)


def _image_scores(q: Tensor, keys: Tensor, visible: Tensor, fused: bool) -> Tensor:
    """Scores [N, K, R] of queries [N, K, E] and the keys [N, K, R, E] of each; visible [1, R]."""
    scale = q.shape[-1] ** -0.5
    if fused:
        return (q.float()[:, :, None] * keys.float()).sum(-1) * scale + visible
    rows, keys = q.flatten(0, 1)[:, None], keys.flatten(0, 1)
    return torch.baddbmm(visible, rows, keys.mT, alpha=scale).view(*q.shape[:2], -1)


def _add_image(seen: Tensor, weights: Tensor, values: Tensor, fused: bool) -> Tensor:
    """What was seen of the text [N, K, E], and of the values [N, K, R, E] by weights [N, K, R]."""
    if fused:
        return (seen.float() + (weights[..., None] * values.float()).sum(-2)).to(seen.dtype)
    rows, by = seen.flatten(0, 1)[:, None], weights.flatten(0, 1)[:, None]
    return torch.baddbmm(rows, by, values.flatten(0, 1)).view_as(seen)


class Decoder(nn.Module):
    """Streams of one model that grow together, a code a step; memory is allocated here.

    Args:
        model: in evaluation mode.
        captions: A.
        candidates: K.
    """

    first_logits: Tensor

    def __init__(self, model: Transformer, captions: int, candidates: int):
        super().__init__()
        self.model, self.captions, self.candidates = model, captions, candidates
        # Each stream's products with its own image have one row. On CUDA they would be slow, and
        # read copies of the caches; as sums a compiled step reads the caches themselves.
        self.fused = model.image_head.weight.is_cuda
        logits = model.image_head.weight.new_zeros(
            captions, model.image_vocabulary, dtype=torch.float32
        )
        self.register_buffer("first_logits", logits)
        blocks = [b for b in model.blocks if isinstance(b, AttentionBlock)]
        self.caches = nn.ModuleList(_Cache(b, captions, candidates) for b in blocks)

    def begin(self, text: Tensor) -> Tensor:
        """Read padded text [A, T - 1]; logits of the first code [B, V]."""
        x = self.model.embed_text(text)
        caches = iter(self.caches)
        for block in self.model.blocks:
            if isinstance(block, AttentionBlock):
                cache = next(caches)
                assert isinstance(cache, _Cache)
                q, k, v = block.project(block.norm(x))
                cache.text[0].copy_(k * k.shape[-1] ** -0.5)
                cache.text[1].copy_(v)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + block.out(y.transpose(1, 2).flatten(2))
            else:
                x = x + block(x)
        self.first_logits.copy_(self._logits(x[:, -1]))
        return self.begin_again()

    def begin_again(self) -> Tensor:
        """Logits of the first code [B, V], behind the text that was read last."""
        return self.first_logits.repeat_interleave(self.candidates, dim=0)

    def forward(self, codes: Tensor, position: Tensor) -> Tensor:
        """Logits [B, V] of the code behind `codes` [B], which stand at `position` [1]."""
        model = self.model
        g = model.grid
        place = model.row_embedding(position // g) + model.column_embedding(position % g)
        x = (model.image_embedding(codes) + place)[:, None]
        caches = iter(self.caches)
        for block in model.blocks:
            if isinstance(block, AttentionBlock):
                x = x + block.out(self._attend(block, next(caches), x, position))
            else:
                x = x + block(x)
        return self._logits(x[:, 0])

    def _attend(self, block: AttentionBlock, cache: nn.Module, x: Tensor, at: Tensor) -> Tensor:
        assert isinstance(cache, _Cache)
        h, e = block.heads, x.shape[-1] // block.heads
        heads = block.qkv(block.norm(x)).view(self.captions, self.candidates, 3, h, e)
        heads = heads.permute(2, 0, 3, 1, 4)
        # The candidates of a caption are the queries of one product with its text.
        q = heads[0].flatten(0, 1)
        text_keys, text_values = cache.text.flatten(1, 2)
        keys, values = cache.keep(heads[1:], at).flatten(1, 2)
        text = torch.bmm(q, text_keys.mT)
        image = _image_scores(q, keys, cache.visible.index_select(0, at), self.fused)
        scores = torch.cat((text, image), dim=-1)
        weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        text, image = weights.split((text.shape[-1], image.shape[-1]), dim=-1)
        seen = _add_image(torch.bmm(text, text_values), image, values, self.fused)
        return seen.view(self.captions, h, self.candidates, e).transpose(1, 2).reshape(x.shape)

    def _logits(self, x: Tensor) -> Tensor:
        return self.model.image_head(self.model.norm(x)).float()
