"""What the dVAE keeps of pictures: PSNR, SSIM and how much of the codebook they use."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from training.drawing.pictures import contact_sheet, to_images
from training.drawing.sampling import pictures_of
from training.dvae.codebook import perplexity
from training.metrics.plots import sheet_scale
from training.metrics.reference_set import ReferenceSet
from training.model_report import Section, Value
from training.models.dvae import DVAE

_MEASURED = 512
_SHOWN = 24


def measure(references: ReferenceSet, dvae: DVAE, output: Path) -> Section:
    """Reconstruct a set's pictures, of which at most 512 are taken; figures and a sheet.

    PSNR and SSIM (Wang et al. 2004; window of 11, deviation 1.5) are means over pictures.

    Args:
        references: real pictures.
        dvae: on its device.
        output: directory of the sheet.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    print(f"{references.title}: reconstruction", flush=True)
    pictures = _some(references.open())
    codes = _codes(dvae, pictures)
    restored = pictures_of(dvae, codes.to(dvae.encoder.input.weight.device))
    a, b = restored.float(), pictures.float()
    psnr = peak_signal_noise_ratio(a, b, data_range=255.0, dim=(1, 2, 3), reduction="none")
    ssim = structural_similarity_index_measure(a, b, data_range=255.0)
    assert isinstance(ssim, torch.Tensor)  # a pair only if the whole picture is asked for
    spread, used = perplexity(codes, dvae.config.vocabulary)
    prefix = f"{references.prefix}reconstruction"
    figures: dict[str, Value] = {
        f"{prefix}_pictures": len(pictures),
        f"{prefix}_psnr_db": float(psnr.mean()),
        f"{prefix}_ssim": float(ssim),
        f"{prefix}_codebook_perplexity": spread,
        f"{prefix}_codebook_used": used,
    }
    path = output / f"{prefix}.png"
    rows = zip(to_images(pictures[:_SHOWN]), to_images(restored[:_SHOWN]), strict=True)
    scale = sheet_scale(dvae.config.image_size)
    contact_sheet([("", pair) for pair in rows], path, scale=scale, columns=6)
    note = "Pictures that no model was trained on: the picture, then what the dVAE makes of it."
    return Section(f"Reconstruction: {references.title}", [note], figures, [path])


def _some(batches: Iterable[Tensor]) -> Tensor:
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= _MEASURED:
            break
    return torch.cat(found)[:_MEASURED]


@torch.inference_mode()
def _codes(dvae: DVAE, pictures: Tensor) -> Tensor:
    """Codes int64 [n, G * G]."""
    device = dvae.encoder.input.weight.device
    found = [dvae.tokens(some.to(device)).cpu().flatten(1) for some in pictures.split(64)]
    return torch.cat(found).long()
