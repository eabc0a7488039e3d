"""What the project takes from torch 2.13, for machines with 2.11: `benchmarks.gpu_marks` only.

Nothing is replaced where torch has it, and what is replaced computes the same.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_CHUNK = 4096
_PROGRAMS = 64


def fill_in() -> list[str]:
    """Add what is missing; its names."""
    missing = []
    known = inspect.signature(torch.compile).parameters
    if "recompile_limit" not in known:
        missing.append("compile(recompile_limit)")
        torch._dynamo.config.recompile_limit = _PROGRAMS
        compile_ = torch.compile

        def without(model: Any, recompile_limit: int = _PROGRAMS, **options: Any) -> Any:
            del recompile_limit  # one for all programs
            return compile_(model, **{k: v for k, v in options.items() if k in known})

        torch.compile = without  # type: ignore[assignment]
    if not hasattr(F, "linear_cross_entropy"):
        missing.append("linear_cross_entropy")
        F.linear_cross_entropy = _linear_cross_entropy  # type: ignore[assignment]
        nn.LinearCrossEntropyOptions = SimpleNamespace  # type: ignore[assignment, misc]
    return missing


def _linear_cross_entropy(
    states: Tensor, weight: Tensor, targets: Tensor, *, linear_bias: Tensor, options: Any
) -> Tensor:
    """Mean nats; logits of a chunk of the tokens at a time, computed again going backward."""

    def nats(states: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(states, weight, linear_bias), targets, reduction="sum")

    parts = zip(states.split(_CHUNK), targets.split(_CHUNK), strict=True)
    sums = [checkpoint(nats, *part, use_reentrant=False) for part in parts]
    return torch.stack(sums).sum() / len(targets)
