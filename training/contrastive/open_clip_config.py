"""Configurations in open_clip's form (`model_configs/*.json` of its package), both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.config import ContrastiveConfig, TowerConfig
from training.contrastive.images import MEAN, STD
from training.finished import ModelError
from training.models.contrastive import Contrastive

_HEAD_WIDTH = 64
_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}


def read_config(content: Mapping[str, Any], source: Path) -> tuple[ContrastiveConfig, int, int]:
    """The shapes, the number of text ids and of text positions.

    Args:
        content: of the JSON file.
        source: its path, for messages.

    Raises:
        ModelError: if it describes a model that is not built here (ResNet and timm image towers,
            other text towers, other pooling), or none at all.
    """
    try:
        vision, text = content["vision_cfg"], content["text_cfg"]
        unknown = {*content} - _MODEL | {*vision} - _VISION | {*text} - _TEXT
        if unknown or not isinstance(vision["layers"], int):
            named = ", ".join(sorted(unknown)) or "a ResNet"
            raise ModelError(
                f"{source} describes a model that is not CLIP's plain vision transformer: {named}"
            )
        width = vision["width"]
        config = ContrastiveConfig(
            embedding=content["embed_dim"],
            image_size=vision["image_size"],
            patch=vision["patch_size"],
            image=TowerConfig(
                width,
                vision["layers"],
                width // vision.get("head_width", _HEAD_WIDTH),
                vision.get("mlp_ratio", 4.0),
            ),
            text=TowerConfig(
                text["width"], text["layers"], text["heads"], text.get("mlp_ratio", 4.0)
            ),
            quick_gelu=bool(content.get("quick_gelu", False)),
        )
        return config, text["vocab_size"], text["context_length"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{source} is no open_clip configuration: {error!r} is missing or wrong"
        ) from error


def own_config(model: Contrastive) -> dict[str, Any]:
    """Configuration and normalisation of a model of ours, in the form that open_clip reads."""
    shape = model.config
    return {
        "model_cfg": {
            "embed_dim": shape.embedding,
            "quick_gelu": shape.quick_gelu,
            "vision_cfg": {
                "image_size": shape.image_size,
                "patch_size": shape.patch,
                "layers": shape.image.layers,
                "width": shape.image.width,
                "head_width": shape.image.width // shape.image.heads,
                "mlp_ratio": shape.image.mlp_ratio,
            },
            "text_cfg": {
                "context_length": model.context,
                "vocab_size": model.vocabulary,
                "layers": shape.text.layers,
                "width": shape.text.width,
                "heads": shape.text.heads,
                "mlp_ratio": shape.text.mlp_ratio,
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD)},
    }
