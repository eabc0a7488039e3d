"""Finished models from their directories; safetensors only, nothing is unpickled."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipelines import storage
from pipelines.layout import Layout, join
from training import finished, remote
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
    return str(finished.read_summary(output)["recipe"])


def dataset_of(output: Path) -> str:
    """The version that a finished transformer was trained on, below the nearest data root above.

    Raises:
        ModelError: if it is not there.
    """
    name = f"v={finished.read_summary(output)['dataset']}"
    for directory in output.absolute().parents:
        root = remote.origin(directory) or str(directory)
        version = join(Layout(root).token_dataset, name)
        if storage.exists(version):
            return version
    raise ModelError(
        f"{output} was trained on the dataset {name}, which no token_dataset above it holds; "
        "give --dataset"
    )


def _load(model: nn.Module, output: Path) -> None:
    """Give a model without weights those of the file, which are then in memory once."""
    path = finished.require(output) / "model.safetensors"
    try:
        model.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{path} does not fit its configuration: {error}; copy it again whole, or train again"
        ) from error
    model.eval()
