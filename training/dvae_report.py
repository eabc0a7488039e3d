"""What a finished dVAE is worth: reconstruction error, codebook use, pictures."""

from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from training.codebook import perplexity
from training.config import SplitConfig
from training.images import plain_batch
from training.models.dvae import DVAE
from training.pictures import contact_sheet, curves, to_images
from training.row_stream import RowStream
from training.splits import Split

_MEASURED = 512
_SHOWN = 48
_CHUNK = 64


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 [B, 3, H, W] pairs in dB, [B]."""
    error = ((images.float() - others.float()) / 255).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-10))


def write(
    model: DVAE, output: Path, files: list[str], splits: SplitConfig
) -> dict[str, float | int | str]:
    """Measure on pairs that were not trained on, draw `reconstructions.png` and `curves.png`.

    Returns:
        psnr_db (mean over images of the validation split; over training images where a small
        corpus has none), psnr_held_out_db (if captions are held out), codebook_used and
        codebook_perplexity (over training images).
    """
    seen = _images(model, files, Split.TRAIN, splits)
    assert seen is not None  # training ran on them
    spread, used = perplexity(_codes(model, seen), model.config.vocabulary)
    summary: dict[str, float | int | str] = {
        "codebook_used": used,
        "codebook_perplexity": spread,
    }
    held_out = _images(model, files, Split.HELD_OUT, splits)
    if held_out is not None:
        summary["psnr_held_out_db"] = float(psnr(held_out, _restored(model, held_out)).mean())
    unseen = _images(model, files, Split.VALIDATION, splits)
    images = seen if unseen is None else unseen
    restored = _restored(model, images)
    summary |= {"psnr_db": float(psnr(images, restored).mean()), "images_measured": len(images)}

    pairs = zip(to_images(images[:_SHOWN]), to_images(restored[:_SHOWN]), strict=True)
    contact_sheet([("", pair) for pair in pairs], output / "reconstructions.png", columns=8)
    panels = {
        "nats per pixel and channel": ["loss", "nll"],
        "KL, nats per code": ["kl_per_code"],
        "gradient norm": ["gradient_norm"],
    }
    curves(output, panels)
    return summary


def _images(model: DVAE, files: list[str], split: Split, splits: SplitConfig) -> Tensor | None:
    table: pa.Table = RowStream(files, ["image"], split, splits).all_rows(_MEASURED)
    return plain_batch(table, model.config.image_size) if table.num_rows else None


def _codes(model: DVAE, images: Tensor) -> Tensor:
    return torch.cat([model.tokens(part) for part in images.split(_CHUNK)])


def _restored(model: DVAE, images: Tensor) -> Tensor:
    return torch.cat([model.reconstruct(part) for part in _codes(model, images).split(_CHUNK)])
