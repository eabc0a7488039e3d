"""A given picture as a prompt."""

import hashlib
from pathlib import Path

from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import DecodeError, OutOfMemory, decode
from training.drawing.sampling import Prompt, keep_outside
from training.dvae.images import centre_crop, to_tensor
from training.errors import InputError
from training.models.dvae import DVAE


def read_prompt(path: Path, dvae: DVAE, row: int, column: int) -> tuple[Prompt, str]:
    """A picture to complete from codes (row, column) on, and SHA-256 of its file.

    It is decoded as those of the dataset were: upright 8-bit sRGB on white, within the limits for
    files of unknown origin. Then its short side is scaled to the model's, and the centre taken.

    Raises:
        InputError: if it is no such picture, or nothing would be kept or drawn.
    """
    kept = keep_outside(dvae.config.grid, row, column)
    limits = CurateConfig()
    try:
        data = path.read_bytes()
        picture = decode(
            data,
            formats=limits.formats,
            max_pixels=limits.max_pixels,
            max_frames=limits.max_frames,
        )
    except (OSError, DecodeError, OutOfMemory) as error:
        raise InputError(
            f"{path} cannot be read as a picture ({str(error) or 'too little memory'}); give a "
            f"whole {', '.join(limits.formats)} file of at most {limits.max_pixels:,} pixels"
        ) from error
    pixels = to_tensor(centre_crop(picture, dvae.config.image_size).copy()[None])
    device = next(dvae.parameters()).device
    codes = dvae.tokens(pixels.to(device))[0].long()
    return Prompt(codes, kept), hashlib.sha256(data).hexdigest()
