"""Finished models from their directories; safetensors only, nothing is unpickled."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from training import finished
from training.config import TransformerConfig
from training.finished import ModelError
from training.models.dvae import DVAE
from training.models.transformer import Transformer


def load_dvae(output: Path) -> DVAE:
    """The finished dVAE of a model directory.

    Raises:
        ModelError: if there is none, or its files do not fit together.
    """
    config = finished.dvae_config(output)
    with torch.device("meta"):
        model = DVAE(config)
    _load(model, output)
    return model


def load_transformer(output: Path) -> Transformer:
    """The finished transformer of a model directory.

    Raises:
        ModelError: if there is none, or its files do not fit together.
    """
    config = finished.read_config(output)
    if not {"transformer", "tokens"} <= config.keys():
        raise ModelError(f"{output} does not hold a transformer")
    with torch.device("meta"):
        model = Transformer(TransformerConfig(**config["transformer"]), **config["tokens"])
    _load(model, output)
    return model


def recipe_of(output: Path) -> str:
    """Name of the recipe that a finished model was trained with."""
    return str(json.loads((finished.require(output) / "summary.json").read_text())["recipe"])


def _load(model: nn.Module, output: Path) -> None:
    """Give a model without weights those of the file, which are then in memory once."""
    path = finished.require(output) / "model.safetensors"
    try:
        model.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path} does not fit its configuration: {error}") from error
    model.eval()
