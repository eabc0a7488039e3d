"""Blocking checks of trained models."""

import math

import dagster as dg

from assets.lib.contract_checks import result
from assets.lib.models import final, imported
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
        from training import finished, remote
        from training.finite import not_finite

        place = finished.require(remote.local(settings.layout.model(model)))
        return result(not_finite(place / "model.safetensors"))

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

        origin = imported(settings.layout.model("dvae"))
        if origin is not None:
            return dg.AssetCheckResult(
                passed=True, description=f"{origin}, which was not trained here"
            )
        summary = storage.read_json(final(settings.layout.model("dvae"), "summary.json"))
        perplexity, psnr = float(summary["codebook_perplexity"]), float(summary["psnr_db"])
        least = settings.least_perplexity()
        problems = []
        if not perplexity >= least:
            problems.append(
                f"codebook perplexity {perplexity:.2f} is below {least:.2f}: {COLLAPSE_ADVICE}"
            )
        if not math.isfinite(psnr):
            problems.append(f"PSNR is {psnr}")
        return result(problems, codebook_perplexity=perplexity, psnr_db=str(psnr))

    return check
