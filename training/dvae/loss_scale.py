"""Mixed precision of stage one: autocast, and one loss scale for the whole model (A.2)."""

from typing import Any

import torch
from torch import Tensor

from training.errors import InputError

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compute_format(precision: str, device: torch.device) -> torch.dtype:
    """The number format of products on a device.

    Args:
        precision: fp32, bf16 or fp16; auto is bf16 on a GPU that has it, fp16 on another GPU
            (the paper's), and fp32 on a CPU, where the others are slower.
        device: where the model runs.

    Raises:
        InputError: if there is no such precision.
    """
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    if precision not in _FORMATS:
        raise InputError(f"unknown precision {precision!r}; choose auto, {', '.join(_FORMATS)}")
    return _FORMATS[precision]


class MixedPrecision:
    """Products in one format, parameters and moments in fp32.

    fp16 has a loss scale, which doubles after 2,000 updates without an infinite gradient and
    halves at one, whose update is left out. fp32 and bf16 need none.
    """

    def __init__(self, precision: str, device: torch.device):
        self.format, self._device = compute_format(precision, device), device
        scaled = self.format is torch.float16
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        mixed = self.format is not torch.float32
        return torch.autocast(self._device.type, self.format if mixed else None, enabled=mixed)

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> Tensor:
        """One update of the optimiser's parameters, clipped to the global norm `clip`.

        It is left out if a gradient is not finite.

        Returns:
            The norm before clipping, without the scale, [].
        """
        optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        # The scaler leaves out what overflowed; without one, one such step would end the model.
        if self._scaler.is_enabled() or bool(norm.isfinite()):
            self._scaler.step(optimizer)
        self._scaler.update()
        return norm

    def reported(self) -> dict[str, Tensor]:
        """The scale, for the progress line; nothing where there is none."""
        if not self._scaler.is_enabled():
            return {}
        return {"loss_scale": torch.tensor(self._scaler.get_scale())}

    def state(self) -> dict[str, Any]:
        """The scale and its count, as plain numbers."""
        return self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Take over `state()` of an earlier process."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
