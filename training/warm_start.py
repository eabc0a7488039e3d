"""Weights to begin a training with: those of a finished transformer."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from training import finished
from training.errors import InputError
from training.models.transformer import Transformer
from training.token_data import TokenData

_ADVICE = "begin with another model, or with random weights"


class WarmStart:
    """A finished transformer to begin with.

    Its averaged weights are taken; optimiser, schedules and data begin anew.

    Args:
        directory: of the model.
        data: the dataset and the recipe to train with.
        tokens: vocabularies and lengths of the model to train.

    Raises:
        InputError: if there is no finished transformer, or its shape, its tokenizer or its dVAE is
            another one.
    """

    def __init__(self, directory: Path, data: TokenData, tokens: dict[str, int]):
        shape = {"transformer": dataclasses.asdict(data.recipe.transformer), "tokens": tokens}
        wanted = _flat(shape) | {
            "tokenizer_sha256": data.manifest.tokenizer_sha256,
            "dvae_sha256": data.manifest.dvae_sha256,
        }
        found = _flat(finished.read_config(directory)) | finished.read_summary(directory)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise InputError(
                    f"{directory} has {name} {found.get(name, 'unknown')}, recipe "
                    f"{data.recipe.name} on {data.manifest.directory} needs {value}; {_ADVICE}"
                )
        self._weights = finished.require(directory) / "model.safetensors"
        self.sha256 = finished.sha256(directory)

    def into(self, model: Transformer) -> None:
        """Copy the weights into a model."""
        with safe_open(self._weights, framework="pt") as stored, torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(stored.get_tensor(name))


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Values of all parts by name."""
    return {k: v for part in config.values() if isinstance(part, dict) for k, v in part.items()}
