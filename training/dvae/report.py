"""What a finished dVAE is worth: the two bounds, reconstruction error, codebook use, pictures."""

from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from training.config import Recipe
from training.drawing.pictures import contact_sheet, curves, to_images
from training.dvae.codebook import perplexity
from training.dvae.images import plain_batch
from training.dvae.validation import bound, chunks
from training.models.dvae import DVAE
from training.row_stream import RowStream
from training.schedules import cosine
from training.splits import Split

_MEASURED = 512
_CODES_COUNTED = 4096
_SHOWN = 48


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 [B, 3, H, W] pairs in dB, [B]."""
    error = ((images.float() - others.float()) / 255).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-10))


def unseen(files: list[str], recipe: Recipe, count: int = _MEASURED) -> Tensor:
    """Pictures of the validation split, or of training where a small corpus has none there.

    Returns:
        uint8 [at most `count`, 3, S, S].
    """
    found = _images(files, recipe, Split.VALIDATION, count)
    if found is None:
        print("warning: no picture is kept for validation; training ones are measured", flush=True)
    images = _images(files, recipe, Split.TRAIN, count) if found is None else found
    assert images is not None  # training needs some, and says so
    return images


def write(
    model: DVAE, output: Path, files: list[str], recipe: Recipe
) -> dict[str, float | int | str]:
    """Measure on pairs that were not trained on, draw `reconstructions.png` and `curves.png`.

    Returns:
        relaxed and true (the two negative bounds, nats per pixel and channel) and their
        elbo_gap, kl_per_code, psnr_db (mean over images of the validation split; over training
        images where a small corpus has none), psnr_held_out_db (if captions are held out),
        codebook_used, codebook_share and codebook_perplexity (over training images).
    """
    seen = _images(files, recipe, Split.TRAIN, _CODES_COUNTED)
    assert seen is not None  # training ran on them
    spread, used = perplexity(_codes(model, seen), model.config.vocabulary)
    summary: dict[str, float | int | str] = {
        "codebook_used": used,
        "codebook_share": used / model.config.vocabulary,
        "codebook_perplexity": spread,
    }
    held_out = _images(files, recipe, Split.HELD_OUT, _MEASURED)
    if held_out is not None:
        summary["psnr_held_out_db"] = float(psnr(held_out, _restored(model, held_out)).mean())
    images = unseen(files, recipe)
    restored = _restored(model, images)
    training = recipe.dvae_training
    last = training.updates
    temperature, kl_weight = cosine(training.temperature, last), cosine(training.kl_weight, last)
    found = bound(model, images, temperature, kl_weight, training.least_log_scale)
    summary |= {
        "psnr_db": float(psnr(images, restored).mean()),
        "images_measured": len(images),
        "relaxed": found.relaxed,
        "true": found.true,
        "elbo_gap": found.gap,
        "kl_per_code": found.kl_per_code,
    }
    _draw(output, images, restored)
    return summary


def _draw(output: Path, images: Tensor, restored: Tensor) -> None:
    pairs = zip(to_images(images[:_SHOWN]), to_images(restored[:_SHOWN]), strict=True)
    contact_sheet([("", pair) for pair in pairs], output / "reconstructions.png", columns=8)
    panels = {
        "nats per pixel and channel": ["loss", "nll", "relaxed", "true"],
        "KL, nats per code": ["kl_per_code"],
        "codebook perplexity": ["perplexity", "validation_perplexity"],
        "temperature": ["temperature"],
        "gradient norm": ["gradient_norm"],
    }
    curves(output, panels)


def _images(files: list[str], recipe: Recipe, split: Split, count: int) -> Tensor | None:
    table: pa.Table = RowStream(files, ["image"], split, recipe.split).all_rows(count)
    return plain_batch(table, recipe.dvae.image_size) if table.num_rows else None


def _codes(model: DVAE, images: Tensor) -> Tensor:
    device = model.encoder.input.weight.device
    return torch.cat([model.tokens(part.to(device)).cpu() for part in chunks(model, images)])


def _restored(model: DVAE, images: Tensor) -> Tensor:
    device = model.encoder.input.weight.device
    size = len(chunks(model, images)[0])
    parts = _codes(model, images).split(size)
    return torch.cat([model.reconstruct(part.to(device)).cpu() for part in parts])
