"""Contrastive models from disk: our own, or an open_clip checkpoint; nothing is unpickled.

A path is one of

* the directory that `training.train_contrastive` wrote (its `final/` is in open_clip's form too);
* a directory as open_clip's models are published: `open_clip_config.json` beside
  `open_clip_model.safetensors`, or `open_clip_pytorch_model.bin`;
* a file of weights (.safetensors, or .pt and .bin, of which only tensors are read), whose
  configuration is a JSON file of the same name beside it, or `open_clip_config.json`. The files in
  `model_configs/` of the package `open-clip-torch` are such configurations.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training import finished, remote
from training.contrastive.embedding import Embedder
from training.contrastive.images import MEAN, STD
from training.contrastive.open_clip_config import read_config
from training.contrastive.text import CLIP_VOCABULARY, TOKENIZER, CaptionIds, ClipText, OwnText
from training.finished import ModelError
from training.models.contrastive import Contrastive
from training.text import TextEncoder

_CONFIG = "open_clip_config.json"
_PUBLISHED = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Files(NamedTuple):
    """Where a model's weights, configuration and (ours only) tokenizer are."""

    weights: Path
    config: Path
    tokenizer: Path | None


def find_files(path: Path) -> Files:
    """The files of a model.

    Raises:
        ModelError: if `path` is none of what this module reads.
    """
    final = path / finished.FINAL
    remote.pull(final)
    if path.is_dir() and (final.exists() or (path / "checkpoints").exists()):
        final = finished.require(path)
        if not (final / TOKENIZER).exists():
            raise ModelError(f"{path} holds another model than a contrastive one")
        return Files(final / "model.safetensors", final / "config.json", final / TOKENIZER)
    found = [path] if path.is_file() else [p for n in _PUBLISHED if (p := path / n).is_file()]
    if not found:
        raise ModelError(
            f"{path} is no contrastive model; give a directory of training.train_contrastive, one "
            f"with {_CONFIG} and {_PUBLISHED[0]}, or a .safetensors, .pt or .bin file"
        )
    weights = found[0]
    configs = (weights.with_suffix(".json"), weights.parent / _CONFIG)
    config = next((c for c in configs if c.is_file()), None)
    if config is None:
        raise ModelError(
            f"{weights} has no configuration; put its open_clip model config beside it, as "
            f"{configs[0].name} or {_CONFIG}"
        )
    return Files(weights, config, None)


def load_embedder(path: Path, device: torch.device | str = "cpu") -> Embedder:
    """A model with its tokenizer and normalisation, ready on a device.

    Raises:
        ModelError: if the files are not such a model, or do not fit together.
    """
    files = find_files(path)
    content = _read_json(files.config)
    config, vocabulary, context = read_config(content.get("model_cfg", content), files.config)
    model = Contrastive(config, vocabulary, context)
    weights = read_weights(files.weights)
    try:
        model.load_state_dict({name: weights[name] for name in weights if name != "attn_mask"})
    except RuntimeError as error:
        raise ModelError(f"{files.weights} does not fit {files.config}: {error}") from error
    seen = content.get("preprocess_cfg", {})
    text = _tokenizer(files, vocabulary, context)
    mean, std = seen.get("mean", MEAN), seen.get("std", STD)
    return Embedder(model.to(device).eval(), text, mean, std)


def model_id(path: Path) -> str:
    """Which model exactly: its file and the first 12 digits of its SHA-256."""
    weights = find_files(path).weights
    with open(weights, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    name = path.name if path.is_dir() else weights.name
    return f"{name} {digest[:12]}"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file, in open_clip's layout.

    Of .pt and .bin files torch reads tensors and plain containers only. A training checkpoint's
    `state_dict` and the prefix `module.` of a data-parallel model are taken off.

    Raises:
        ModelError: if the file is something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"{path} cannot be read as plain tensors ({str(error).splitlines()[0]}); convert a "
            "TorchScript archive, such as OpenAI's own files, to safetensors first"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ModelError(f"{path} holds no named tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _tokenizer(files: Files, vocabulary: int, context: int) -> CaptionIds:
    if files.tokenizer is not None:
        return OwnText(TextEncoder(files.tokenizer.read_text(), context - 2))
    if vocabulary != CLIP_VOCABULARY:
        raise ModelError(
            f"{files.config} has {vocabulary} text ids; only models with CLIP's own "
            f"{CLIP_VOCABULARY} can be read"
        )
    return ClipText(context)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no model configuration")
    return content
