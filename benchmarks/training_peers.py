"""The peers' transformers at the size of the table in docs/performance.md.

Of dalle_pytorch only the transformer is imported: its package imports VAEs, and with them libraries
that the transformer does not need. minDALL-E is in no package registry: the variable MINDALLE names
a checkout of github.com/kakaobrain/minDALL-E.
"""

import importlib
import importlib.util
import os
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


def mindalle() -> tuple[Any, Callable[[Any, Any], Any]]:
    """Its Transformer1d, and the loss of text ids [B, T] and codes [B, N] as it weighs them.

    Raises:
        FileNotFoundError: if MINDALLE does not name a checkout.
    """
    import torch
    import torch.nn.functional as F

    folder = os.path.join(os.environ.get("MINDALLE", ""), "dalle", "models", "stage2")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"there is no {folder}; let MINDALLE name a checkout of kakaobrain/minDALL-E"
        )
    package = types.ModuleType("mindalle_stage2")
    package.__path__ = [folder]
    # It annotates with a class of this library, and needs no more of it.
    configuration = types.ModuleType("omegaconf")
    configuration.OmegaConf = object  # type: ignore[attr-defined]
    sys.modules |= {"mindalle_stage2": package}
    sys.modules.setdefault("omegaconf", configuration)
    module = importlib.import_module("mindalle_stage2.transformer")
    model = module.Transformer1d(
        VOCABULARY, VOCABULARY,
        types.SimpleNamespace(
            embed_dim=WIDTH, n_layers=DEPTH, n_dense_layers=DEPTH, n_heads=HEADS,
            ctx_len_img=GRID**2, ctx_len_txt=TEXT, embd_pdrop=0.0, resid_pdrop=0.0,
            attn_pdrop=0.0, mlp_bias=True, attn_bias=True, gelu_use_approx=False,
        ),
    )  # fmt: skip

    def loss(text: Any, codes: Any) -> Any:
        places = (torch.arange(n).expand(len(codes), -1) for n in (GRID**2, TEXT))
        of_codes, of_text = model(codes, text, *places)
        nats = F.cross_entropy(of_codes.flatten(0, 1), codes.flatten())
        return nats + F.cross_entropy(of_text.flatten(0, 1), text[:, 1:].flatten()) / 7

    return model, loss


def step_of(model: Any, loss: Callable[[], Any]) -> Callable[[], None]:
    """Forward and backward, gradients freed."""

    def step() -> None:
        loss().backward()
        model.zero_grad()

    return step
