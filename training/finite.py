"""Whether stored weights are numbers."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


def not_finite(weights: Path) -> list[str]:
    """What is wrong with a file of weights: damage, tensors that are not finite, or none at all."""
    try:
        # safetensors maps the file; one tensor at a time is in memory.
        with safe_open(weights, framework="pt") as tensors:
            names = list(tensors.keys())
            bad = [n for n in names if not bool(torch.isfinite(tensors.get_tensor(n)).all())]
    except SafetensorError as error:
        return [f"{weights} is damaged: {error}"]
    if not names:
        return [f"{weights} is empty"]
    return [f"{name} of {weights} has values that are not finite" for name in bad]
