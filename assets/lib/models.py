"""What a trained model says on its asset page."""

import json
import math
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.lib import report
from assets.lib.home import UserError
from assets.lib.settings import Settings
from pipelines import storage
from pipelines.layout import join
from pipelines.publish.manifest import sha256

TENSORS = report.described_rows(
    "a tensor in model.safetensors",
    tensor=("string", "name of the parameter; blocks and layers are numbered from 0"),
    dtype=("string", "type of its numbers, as safetensors writes it: F32, BF16"),
    shape=("list<int64>", "its dimensions, as torch orders them"),
)


def final(directory: str, name: str) -> str:
    """A file of a model's finished state."""
    return join(directory, "final", name)


def file_version(url: str) -> str:
    """SHA-256 of a file, in 32 hex digits."""
    return sha256(url)[:32]


def tensors(directory: str) -> int:
    """Number of tensors in a finished model, by the header of their file."""
    fs, path = storage.filesystem(final(directory, "model.safetensors"))
    with fs.open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return len(header.keys() - {"__metadata__"})


def imported(directory: str) -> str | None:
    """What a finished model was converted from; None for one that was trained here, or for none."""
    url = final(directory, "summary.json")
    if not storage.exists(url):
        return None
    origin = storage.read_json(url).get("imported")
    return str(origin) if origin else None


def image_text_model(settings: Settings) -> str | None:
    """Where the model lies that compares pictures and captions; None if there is none yet."""
    own = settings.layout.model("contrastive")
    if settings.clip_checkpoint:
        return settings.clip_checkpoint
    return own if storage.exists(final(own, "_SUCCESS")) else None


def required_image_text_model(settings: Settings) -> str:
    """As `image_text_model`.

    Raises:
        UserError: if there is none, with what to do.
    """
    found = image_text_model(settings)
    if found is None:
        raise UserError(
            "there is no contrastive model yet; launch the job train_contrastive, or set "
            "DALLE_CLIP_CHECKPOINT to an open_clip checkpoint"
        )
    return found


def figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """A program's summary as metadata: numbers stay numbers, so that Dagster plots them."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, str | bool | int):
            out[name] = value
        elif isinstance(value, float):
            # Dagster's event log is JSON, which has no NaN.
            out[name] = value if math.isfinite(value) else str(value)
        else:
            out[name] = dg.MetadataValue.json(json.loads(json.dumps(value, default=str)))
    return out


def materialized_model(directory: str, extra: Mapping[str, Any]) -> dg.MaterializeResult:
    """The materialisation of a finished model: the hash of its weights, its summary, pictures.

    Raises:
        dg.Failure: if training left no finished state.
    """
    if not storage.exists(final(directory, "_SUCCESS")):
        raise dg.Failure(
            description=f"Training ended without {final(directory, '_SUCCESS')}; launch again.",
            allow_retries=False,
        )
    summary = storage.read_json(final(directory, "summary.json"))
    version = file_version(final(directory, "model.safetensors"))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/row_count": tensors(directory),
            "dagster/uri": directory,
            **figures(summary),
            **extra,
        },
    )
