"""The state-dictionary layout of OpenAI's release (`openai/DALL-E`, PyPI `dall-e` 0.1).

There, a convolution's tensors are `w` and `b`, groups and blocks count from 1, and a residual
path numbers its convolutions alone; here, `nn.Conv2d` and `nn.Sequential` name them. Tensors are
the same, of the same shape.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from training.config import DVAEConfig
from training.errors import InputError

_TENSORS = {"w": "weight", "b": "bias"}
_THEIRS = re.compile(
    r"blocks\.(?:(?P<end>input|output\.conv)"
    r"|group_(?P<group>\d+)\.block_(?P<block>\d+)"
    r"\.(?:(?P<id>id_path)|res_path\.conv_(?P<conv>\d+)))"
    r"\.(?P<tensor>[wb])"
)
_OURS = re.compile(
    r"(?:(?P<end>input|output)"
    r"|groups\.(?P<group>\d+)\.(?P<block>\d+)"
    r"\.(?:(?P<id>id_path)|res_path\.(?P<layer>\d+)))"
    r"\.(?P<tensor>weight|bias)"
)


class LayoutError(InputError):
    """State dictionaries that are not an encoder and a decoder of OpenAI's layout."""


def from_openai_name(name: str) -> str:
    """`blocks.group_2.block_1.res_path.conv_3.w` to `groups.1.0.res_path.5.weight`.

    Raises:
        LayoutError: if it is no name of that layout.
    """
    found = _THEIRS.fullmatch(name)
    if found is None:
        raise LayoutError(f"{name!r} is no tensor of OpenAI's dVAE; its names begin with 'blocks.'")
    tensor = _TENSORS[found["tensor"]]
    if found["end"]:
        return f"{found['end'].partition('.')[0]}.{tensor}"
    # A ReLU precedes each convolution of a residual path.
    path = "id_path" if found["id"] else f"res_path.{2 * int(found['conv']) - 1}"
    return f"groups.{int(found['group']) - 1}.{int(found['block']) - 1}.{path}.{tensor}"


def to_openai_name(name: str) -> str:
    """Inverse of `from_openai_name`."""
    found = _OURS.fullmatch(name)
    assert found is not None, name
    tensor = found["tensor"][0]
    if found["end"]:
        return f"blocks.{'output.conv' if found['end'] == 'output' else 'input'}.{tensor}"
    path = "id_path" if found["id"] else f"res_path.conv_{(int(found['layer']) + 1) // 2}"
    return f"blocks.group_{int(found['group']) + 1}.block_{int(found['block']) + 1}.{path}.{tensor}"


def config_of(
    encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor], image_size: int
) -> DVAEConfig:
    """The shape that two state dictionaries of OpenAI's layout have.

    Args:
        encoder: its state dictionary.
        decoder: its state dictionary.
        image_size: side of the square images that the model is for; the weights do not tell.

    Raises:
        LayoutError: if they are not of that layout, or not of one model.
    """
    for which, state in (("encoder", encoder), ("decoder", decoder)):
        missing = [name for name in ("blocks.input.w", "blocks.output.conv.w") if name not in state]
        if missing:
            raise LayoutError(
                f"the {which}'s state dictionary has no {missing[0]!r}; expected the layout of "
                "OpenAI's dVAE (PyPI dall-e 0.1), its encoder first and its decoder second"
            )
    places = [found for name in encoder if (found := _THEIRS.fullmatch(name)) and found["group"]]
    vocabulary, colours = encoder["blocks.output.conv.w"].shape[0], encoder["blocks.input.w"].shape
    known, maps = decoder["blocks.input.w"].shape[1], decoder["blocks.output.conv.w"].shape[0]
    if colours[1] != 3 or maps != 6:
        raise LayoutError(
            f"the encoder takes {colours[1]} channels and the decoder gives {maps} maps; expected "
            "3 and 6: name the encoder first and the decoder second"
        )
    if vocabulary != known:
        raise LayoutError(
            f"the encoder has {vocabulary} codes and the decoder {known}; name two files of one "
            "model"
        )
    return DVAEConfig(
        image_size=image_size,
        hidden=colours[0],
        blocks_per_group=max((int(found["block"]) for found in places), default=0),
        groups=max((int(found["group"]) for found in places), default=0),
        vocabulary=vocabulary,
        decoder_init=decoder["blocks.input.w"].shape[0],
    )
