"""Versions and hashes of everything that an evaluation's figures rest on."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pipelines.publish.manifest import Manifest
from training import finished

# Of a model's summary; what one does not say is left out.
_SAID = {
    "recipe": "recipe",
    "updates": "updates",
    "code_version": "version of the training code",
    "warm_start": "began with the weights",
    "imported": "imported from",
}
# Ours, the networks', the figures', and what scales and blurs.
_PACKAGES = ("dalle-graph", "torch", "torchmetrics", "pillow")


def versions(
    models: Mapping[str, Path], manifest: Manifest, measured: Mapping[str, object]
) -> list[tuple[str, str]]:
    """Names and values, for the report.

    Args:
        models: directories of the finished models by name.
        manifest: of the dataset.
        measured: how it was measured, by name; what is empty is left out.
    """
    found = [
        ("dataset", manifest.version),
        ("dataset published", manifest.created_at),
        ("configuration of the dataset", manifest.configuration),
        ("contract version of the dataset", manifest.contract_version),
        ("tokenizer", manifest.tokenizer_sha256),
        ("dVAE of the codes", manifest.dvae_sha256),
    ]
    for name, directory in models.items():
        summary = finished.read_summary(directory)
        found.append((f"{name}, weights", finished.sha256(directory)))
        found += [
            (f"{name}, {words}", str(summary[key]))
            for key, words in _SAID.items()
            if summary.get(key)
        ]
    found += [
        (f"evaluation, {name}", str(value)) for name, value in measured.items() if value != ""
    ]
    found += [(package, version(package)) for package in _PACKAGES]
    for record in manifest.stages:
        found.append((f"{record.dataset}, batch {record.batch}", record.content))
    return found
