"""Make a model directory of OpenAI's released dVAE.

python -m training.convert_openai_dvae encoder.pkl decoder.pkl --output DIR
"""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from training import cli, finished
from training.dvae.legacy import read_state
from training.models.dvae import DVAE


def convert(
    encoder: Annotated[Path, typer.Argument(help="encoder.pkl: a module or state dictionary")],
    decoder: Annotated[Path, typer.Argument(help="decoder.pkl: a module or state dictionary")],
    output: Annotated[Path, typer.Option(help="directory of the model; `final/` appears in it")],
    image_size: Annotated[int, typer.Option(help="side of its pictures in pixels")] = 256,
) -> None:
    """Write DIR/final with safetensors, loadable wherever a trained dVAE is."""
    digests = []
    for path in (encoder, decoder):
        with open(path, "rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    model = DVAE.from_openai(read_state(encoder), read_state(decoder), image_size)
    summary = {
        "recipe": "openai",
        "imported": "OpenAI's released dVAE",
        "encoder_sha256": digests[0],
        "decoder_sha256": digests[1],
    }
    fingerprint = hashlib.sha256(f"{digests} {image_size}".encode()).hexdigest()
    finished.write(output, fingerprint, model, model.config, summary)
    typer.echo(f"{output}: {model.config.vocabulary} codes, {model.config.hidden} wide")


if __name__ == "__main__":
    cli.run(convert)
