"""Work of a training update, beside what the hardware can do at most."""

import torch

from training.models.attention_masks import attention_mask, layer_kinds
from training.models.transformer import Transformer

# Dense 16-bit products, FLOP/s, from the makers' data sheets; the first name that fits counts.
_PEAKS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
    "L4": 121e12,
    "T4": 65e12,
}


def model_flops(model: Transformer, rows: int) -> float:
    """FLOP of forward and backward of `rows` streams: what the model needs, nothing recomputed.

    Attention counts the pairs that the masks allow.
    """
    d, t, n = model.config.width, model.text_length, model.grid**2
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    products = model.length * matrices
    products += d * (t * model.text_head.out_features + n * model.image_head.out_features)
    kinds = layer_kinds(model.config.depth)
    pairs = {
        kind: int(
            attention_mask(kind, t + 1, model.grid, model.config.convolution_kernel)[
                : model.length, : model.length
            ].sum()
        )
        for kind in set(kinds)
    }
    products += sum(2 * d * pairs[kind] for kind in kinds)
    return 6.0 * products * rows


def peak_flops(device: torch.device) -> float | None:
    """The device's peak, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAKS.items() if known in name), None)
