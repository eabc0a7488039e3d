"""Finished models from their directories; safetensors only, nothing is unpickled."""

import dataclasses
import textwrap
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipelines import storage
from pipelines.layout import Layout, join
from training import finished, remote
from training.config import TransformerConfig
from training.finished import REPAIR, ModelError
from training.models.dvae import DVAE
from training.models.transformer import Transformer

_TOKENS = ("text_vocabulary", "text_length", "image_vocabulary", "grid")
_TOLD = 300


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
        raise ModelError(f"{output} does not hold a transformer; name the directory of one")
    names = [field.name for field in dataclasses.fields(TransformerConfig)]
    shape = TransformerConfig(**finished.whole_numbers(output, config["transformer"], names))
    tokens = finished.whole_numbers(output, config["tokens"], _TOKENS)
    with torch.device("meta"):
        model = Transformer(shape, **tokens)
    _load(model, output)
    return model


def recipe_of(output: Path) -> str:
    """Name of the recipe that a finished model was trained with.

    Raises:
        ModelError: if its summary does not say.
    """
    return _said(output, "recipe")


def tokenizer_of(output: Path) -> str:
    """SHA-256 of the tokenizer that made the text which a finished transformer was trained on.

    Raises:
        ModelError: if its summary does not say.
    """
    return _said(output, "tokenizer_sha256")


def dataset_of(output: Path) -> str:
    """The version that a finished transformer was trained on, below the nearest data root above.

    Raises:
        ModelError: if it is not there, or the model's summary does not say which it was.
    """
    name = f"v={_said(output, 'dataset')}"
    for directory in output.absolute().parents:
        root = remote.origin(directory) or str(directory)
        version = join(Layout(root).token_dataset, name)
        if storage.exists(version):
            return version
    raise ModelError(
        f"{output} was trained on the dataset {name}, which no token_dataset above it holds; "
        "give --dataset"
    )


def _said(output: Path, name: str) -> str:
    """What the model's summary says under a name."""
    said = finished.read_summary(output).get(name)
    if said is None:
        raise ModelError(f"{output / finished.FINAL / 'summary.json'} lacks {name}; {REPAIR}")
    return str(said)


def _load(model: nn.Module, output: Path) -> None:
    """Give a model without weights those of the file, which are then in memory once."""
    path = finished.require_file(output, "model.safetensors")
    try:
        model.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, RuntimeError) as error:
        # torch lists every tensor that does not fit, on a line of its own.
        told = textwrap.shorten(str(error), _TOLD, placeholder=" ...")
        raise ModelError(f"{path} does not fit its configuration: {told}; {REPAIR}") from error
    model.eval()
