"""Draw a sheet of pictures for captions of a dataset: `python -m training.sample ...`."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from pipelines import storage
from training import cli
from training.finished import sha256
from training.models.loading import load_dvae, load_transformer, recipe_of
from training.pictures import contact_sheet, to_images
from training.recipes import recipe as recipe_named
from training.reporting import Reporter
from training.sample_sheet import choose_lines
from training.sampling import draw
from training.splits import Split
from training.tokens import TokenData

_LABEL_WIDTH = 200
_MARKS = {Split.HELD_OUT: "[held out] ", Split.VALIDATION: "[validation] ", Split.TRAIN: ""}


def sample(
    dalle: Annotated[Path, typer.Option(help="directory of the transformer")],
    dvae: Annotated[Path, typer.Option(help="directory of the dVAE")],
    dataset: Annotated[str, typer.Option(help="a version token_dataset/v=...")],
    output: Annotated[Path, typer.Option(help="directory of samples.png and samples.json")],
    limit: Annotated[int, typer.Option(min=1, help="captions on the sheet")] = 64,
    candidates: Annotated[int, typer.Option(min=1, help="pictures for each caption")] = 3,
    temperature: Annotated[float, typer.Option(help="of the softmax; the paper's is 1")] = 1.0,
    seed: Annotated[int, typer.Option(help="the same seed draws the same pictures")] = 0,
) -> None:
    """Draw a contact sheet: a caption and samples for it on every line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, decoder = load_transformer(dalle).to(device), load_dvae(dvae).to(device)
    data = TokenData(dataset, recipe_named(recipe_of(dalle)))
    data.require_dvae(sha256(dvae))
    lines = choose_lines(data, limit)
    with Reporter(None, len(lines) * candidates) as reporter:
        pictures = draw(
            model,
            decoder,
            data.encoder,
            [line.caption for line in lines],
            candidates,
            seed=seed,
            temperature=temperature,
            progress=lambda done: reporter.log(done, {}),
        )
    rows = [
        (_MARKS[line.split] + line.caption, to_images(row))
        for line, row in zip(lines, pictures, strict=True)
    ]
    contact_sheet(rows, output / "samples.png", columns=4, label_width=_LABEL_WIDTH)
    facts = {
        "seed": seed,
        "temperature": temperature,
        "dataset": data.manifest.version,
        "captions": [{"caption": line.caption, "split": line.split} for line in lines],
    }
    storage.write_json(str(output / "samples.json"), facts)


if __name__ == "__main__":
    cli.run(sample)
