"""The peers' transformers at the size of the table in docs/performance.md.

Of dalle_pytorch only the transformer is imported: its package imports VAEs, and with them libraries
that the transformer does not need.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

BATCH, TEXT, GRID, VOCABULARY = 8, 80, 16, 8192
WIDTH, DEPTH, HEADS = 256, 8, 8


def x_transformers() -> Any:
    """Its decoder with flash attention over one vocabulary of text and codes."""
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    layers = Decoder(
        dim=WIDTH, depth=DEPTH, heads=HEADS, attn_dim_head=WIDTH // HEADS, attn_flash=True
    )
    return AutoregressiveWrapper(
        TransformerWrapper(
            num_tokens=2 * VOCABULARY, max_seq_len=TEXT + GRID**2, attn_layers=layers
        )
    )


def dalle_pytorch() -> Any:
    """Its DALLE with the paper's rows and columns; its convolution layer is left out."""
    import torch

    _without_vaes()
    from dalle_pytorch.dalle_pytorch import DALLE

    class NoVAE(torch.nn.Module):
        image_size, num_layers, num_tokens = GRID * 8, 3, VOCABULARY

    sys.modules["dalle_pytorch.dalle_pytorch"].DiscreteVAE = NoVAE  # type: ignore[attr-defined]
    return DALLE(
        dim=WIDTH, vae=NoVAE(), num_text_tokens=VOCABULARY - TEXT, text_seq_len=TEXT,
        depth=DEPTH, heads=HEADS, dim_head=WIDTH // HEADS, loss_img_weight=7,
        attn_types=("axial_row", "axial_col", "axial_row", "axial_row"), rotary_emb=False,
    )  # fmt: skip


def _without_vaes() -> None:
    spec = importlib.util.find_spec("dalle_pytorch")
    assert spec is not None
    package = types.ModuleType("dalle_pytorch")
    package.__path__ = list(spec.submodule_search_locations or ())
    vae = types.ModuleType("dalle_pytorch.vae")
    vae.OpenAIDiscreteVAE = vae.VQGanVAE = type("Absent", (), {})  # type: ignore[attr-defined]
    sys.modules |= {"dalle_pytorch": package, "dalle_pytorch.vae": vae}


def step_of(model: Any, loss: Callable[[], Any]) -> Callable[[], None]:
    """Forward and backward, gradients freed."""

    def step() -> None:
        loss().backward()
        model.zero_grad()

    return step
