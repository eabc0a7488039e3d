"""Blocking checks of trained models, and their plain functions, which publishing calls again."""

import math

import dagster as dg

from assets.lib.contract_checks import result
from assets.lib.models import final, imported
from assets.lib.settings import Settings
from pipelines import storage


def weights_problems(settings: Settings, model: str) -> list[str]:
    """Weights of a finished model that are infinite or not a number."""
    from training import finished, remote
    from training.finite import not_finite

    place = finished.require(remote.local(settings.layout.model(model)))
    return not_finite(place / "model.safetensors")


def weights_finite(asset: dg.AssetsDefinition, model: str) -> dg.AssetChecksDefinition:
    """A blocking check that no weight of `model` is infinite or not a number."""

    @dg.asset_check(
        asset=asset,
        name=f"{model}_weights_finite",
        description="every weight is a finite number",
        blocking=True,
    )
    def check(settings: Settings) -> dg.AssetCheckResult:
        return result(weights_problems(settings, model))

    return check


def codebook_problems(settings: Settings) -> list[str]:
    """Why the dVAE is of no use, by its summary; nothing of one that was not trained here."""
    from training.dvae.codebook import COLLAPSE_ADVICE

    if imported(settings.layout.model("dvae")) is not None:
        return []
    perplexity, psnr = _codebook(settings)
    least = settings.least_perplexity()
    problems = []
    if not perplexity >= least:
        problems.append(
            f"codebook perplexity {perplexity:.2f} is below {least:.2f}: {COLLAPSE_ADVICE}"
        )
    if not math.isfinite(psnr):
        problems.append(f"PSNR is {psnr}")
    return problems


def codebook_alive(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """A blocking check that the dVAE uses its codebook and reconstructs something."""

    @dg.asset_check(
        asset=asset,
        name="dvae_codebook_alive",
        description="the codebook has not collapsed, and the reconstruction error is a number",
        blocking=True,
    )
    def check(settings: Settings) -> dg.AssetCheckResult:
        origin = imported(settings.layout.model("dvae"))
        if origin is not None:
            return dg.AssetCheckResult(
                passed=True, description=f"{origin}, which was not trained here"
            )
        perplexity, psnr = _codebook(settings)
        problems = codebook_problems(settings)
        return result(problems, codebook_perplexity=perplexity, psnr_db=str(psnr))

    return check


def dvae_problems(settings: Settings) -> list[tuple[str, str]]:
    """The name of each blocking check of the dVAE that fails, and why."""
    weights = [("dvae_weights_finite", p) for p in weights_problems(settings, "dvae")]
    return weights + [("dvae_codebook_alive", p) for p in codebook_problems(settings)]


def _codebook(settings: Settings) -> tuple[float, float]:
    """Perplexity of the codes, and the PSNR of the reconstructions in dB."""
    summary = storage.read_json(final(settings.layout.model("dvae"), "summary.json"))
    return float(summary["codebook_perplexity"]), float(summary["psnr_db"])
