"""Legacy weight files of OpenAI's dVAE, read without running what they name.

OpenAI published whole pickled modules. torch's restricted unpickler (`weights_only=True`) makes
tensors and plain containers only; the classes of such a module are read as inert holders of their
attributes, and the state dictionary is gathered from those.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from training.errors import InputError

_CLASSES = (
    *("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock"),
    *("dall_e.decoder.Decoder", "dall_e.decoder.DecoderBlock"),
    "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)


class LegacyFileError(InputError):
    """A file that is not of OpenAI's dVAE, or names more than its classes."""


class _Holder:
    """Stands in for a class: keeps the attributes, has no code."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dictionary of a pickled module, or of a pickled state dictionary.

    Raises:
        FileNotFoundError: if there is no such file.
        LegacyFileError: if it holds anything else.
    """
    stand_ins: list[Any] = [(_Holder, name) for name in _CLASSES]
    try:
        with torch.serialization.safe_globals(stand_ins):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise LegacyFileError(
            f"{path} is no weight file that can be read safely: {reason}"
        ) from error
    state = _gathered(found, "") if isinstance(found, _Holder) else found
    if not isinstance(state, dict) or not all(isinstance(w, Tensor) for w in state.values()):
        raise LegacyFileError(
            f"{path} holds a {type(found).__name__}; expected a module or state dictionary of "
            "OpenAI's dVAE"
        )
    return state


def _gathered(module: Any, prefix: str) -> dict[str, Tensor]:
    attributes = vars(module)
    state = {
        f"{prefix}{name}": parameter.detach()
        for name, parameter in attributes.get("_parameters", {}).items()
        if parameter is not None
    }
    for name, child in attributes.get("_modules", {}).items():
        state |= _gathered(child, f"{prefix}{name}.")
    return state
