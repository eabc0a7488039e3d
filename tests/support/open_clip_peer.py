"""open_clip's own model and tokenizer, as a peer.

Its package imports torchvision for one class of its ResNet towers, which cannot be installed
beside this torch; the modules that the peer needs are imported without it.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 90, "width": 48, "heads": 3, "layers": 2},
}


def directory() -> Path:
    """Where the package is installed."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def module(name: str) -> Any:
    """A module of open_clip."""
    import torch

    if "open_clip" not in sys.modules:
        spec = importlib.util.find_spec("open_clip")
        assert spec is not None
        # The package without what its __init__ imports.
        sys.modules["open_clip"] = importlib.util.module_from_spec(spec)
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    missing = [n for n in names if n not in sys.modules]
    for absent in missing:
        sys.modules[absent] = types.ModuleType(absent)
    if missing:
        sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = torch.nn.Module  # type: ignore[attr-defined]
    try:
        return importlib.import_module(f"open_clip.{name}")
    finally:
        for absent in missing:
            del sys.modules[absent]


def clip(config: dict[str, Any]) -> Any:
    """open_clip's CLIP of a configuration, with random weights."""
    import torch

    torch.manual_seed(0)
    model = module("model").CLIP(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Gains and biases, too, must differ from what they are at first.
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()
