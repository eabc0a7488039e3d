"""Blocking checks of trained models."""

import math

import dagster as dg

from assets.lib.contract_checks import result
from assets.lib.models import final
from assets.lib.settings import Settings
from pipelines import storage


def weights_finite(asset: dg.AssetsDefinition, model: str) -> dg.AssetChecksDefinition:
    """A blocking check that no weight of `model` is infinite or not a number."""

    @dg.asset_check(
        asset=asset,
        name=f"{model}_weights_finite",
        description="every weight is a finite number",
        blocking=True,
    )
    def check(settings: Settings) -> dg.AssetCheckResult:
        import torch
        from safetensors import safe_open

        # safetensors maps the file; one tensor at a time is in memory.
        path = final(settings.layout.model(model), "model.safetensors")
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
            bad = [n for n in names if not bool(torch.isfinite(tensors.get_tensor(n)).all())]
        problems = [f"{name} has weights that are not finite" for name in bad]
        return result(problems or ([] if names else [f"{path} is empty"]), tensors=len(names))

    return check


def codebook_alive(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """A blocking check that the dVAE uses its codebook and reconstructs something."""

    @dg.asset_check(
        asset=asset,
        name="dvae_codebook_alive",
        description="the codebook has not collapsed, and the reconstruction error is a number",
        blocking=True,
    )
    def check(settings: Settings) -> dg.AssetCheckResult:
        from training.dvae.codebook import COLLAPSE_ADVICE

        summary = storage.read_json(final(settings.layout.model("dvae"), "summary.json"))
        perplexity, psnr = float(summary["codebook_perplexity"]), float(summary["psnr_db"])
        least = settings.training_recipe().least_perplexity
        # A run cut short has not spread over its codebook yet; one code for all is a collapse
        # at any length.
        least = 1.0 + 1e-6 if settings.max_updates else least
        problems = []
        if not perplexity >= least:
            problems.append(
                f"codebook perplexity {perplexity:.2f} is below {least:.2f}: {COLLAPSE_ADVICE}"
            )
        if not math.isfinite(psnr):
            problems.append(f"PSNR is {psnr}")
        return result(problems, codebook_perplexity=perplexity, psnr_db=str(psnr))

    return check
