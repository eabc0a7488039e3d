"""In which number formats stage two computes (arXiv 2102.12092, section 2.4 and appendix D).

Parameters, their gradients and the optimiser's moments are fp32 in every mode, and so are the
identity path, the embeddings and the logits; the modes differ in the products inside the blocks.
Only in bf16 on CUDA products of fp32 round their factors to TF32, whose mantissa is bf16's and
three bits, and add up in fp32: beside blocks in bf16, exact heads would take a sixth of a step.
"""

import functools
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.dalle.gradient_scales import GradientScales
from training.dalle.half_blocks import run_in_half


class Precision(StrEnum):
    """Modes; `auto` is bf16 on a GPU that has it and fp32 everywhere else."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16_PER_BLOCK = "fp16_per_block"

    def on(self, device: torch.device) -> "Precision":
        """The mode to use on a device."""
        if self is not Precision.AUTO:
            return self
        # bf16 products on CPUs without AMX are many times slower than fp32.
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision.BF16 if bf16 else Precision.FP32


def recompute_blocks(blocks: nn.ModuleList) -> None:
    """Keep only each block's input, and compute the rest again in the backward pass (2.4).

    Names of modules and parameters stay as they were.
    """
    for block in blocks:
        block.forward = functools.partial(_recomputed, block.forward)


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Compile what each block computes, but for its attention, which is compiled by itself.

    Call it first, so that recomputation, casts and the exchange of parameters stay outside. Names
    of modules and parameters stay as they were.
    """
    for block in blocks:
        # Programs of its own for each: of common ones torch keeps so few that it would give up.
        block.forward = torch.compile(  # type: ignore[call-overload]
            block.forward, dynamic=False, isolate_recompiles=True
        )


def _recomputed(inner: Callable[..., Tensor], *arguments: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return inner(*arguments)
    # The model draws no random numbers, so their state need not be kept.
    result: Tensor = checkpoint(
        inner, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
    )
    return result


def run_blocks_in(
    precision: Precision, blocks: nn.ModuleList, replicas: int, device: torch.device
) -> GradientScales | None:
    """Make the blocks compute in `precision`; the scales of fp16, None in other modes.

    Call it after `compile_blocks` and `recompute_blocks`, so that the filter and the cast stand
    outside. bf16 on CUDA allows TF32 in this process.
    """
    if precision is Precision.FP16_PER_BLOCK:
        scales = GradientScales(len(blocks), replicas, device)
        run_in_half(blocks, scales)
        return scales
    if precision is Precision.BF16:
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # the heads, of the whole process
        for block in blocks:
            block.forward = functools.partial(_in_bf16, block.forward)
    return None


def _in_bf16(inner: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return inner(x, *rest)
