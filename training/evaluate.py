"""Measure finished models on what they were not trained on: `python -m training.evaluate ...`."""

import math
from pathlib import Path
from typing import Annotated

import torch
import typer

from pipelines import storage
from training import cli
from training.codebook import perplexity
from training.finished import sha256
from training.likelihood import Nats, nats, right_and_shuffled
from training.models.loading import load_dvae, load_transformer, recipe_of
from training.pictures import bars, contact_sheet, to_images
from training.recipes import recipe as recipe_named
from training.reporting import Reporter
from training.sampling import draw
from training.splits import Split
from training.tokens import TokenData

_ROWS = 512
_SHOWN = 24
_LABEL_WIDTH = 200


def evaluate(
    dalle: Annotated[Path, typer.Option(help="directory of the transformer")],
    dvae: Annotated[Path, typer.Option(help="directory of the dVAE")],
    dataset: Annotated[str, typer.Option(help="a version token_dataset/v=...")],
    output: Annotated[Path, typer.Option(help="directory of evaluation.json and its plots")],
) -> None:
    """Likelihood with right and with shuffled captions, codebook use, held-out pictures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, decoder = load_transformer(dalle).to(device), load_dvae(dvae).to(device)
    data = TokenData(dataset, recipe_named(recipe_of(dalle)))
    data.require_dvae(sha256(dvae))
    output.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float | int | str] = {"dataset": data.manifest.version}
    heights = {"uniform": math.log(model.image_vocabulary)}
    with Reporter(None, len(Split)) as reporter:
        for step, split in enumerate(Split, start=1):
            table = data.stream(split).all_rows(_ROWS)
            if table.num_rows == 0:
                continue
            right = nats(model, data.plain_batch(table))
            heights[split.value] = right.image
            figures |= _figures(split.value, right)
            if len(set(table["caption"].to_pylist())) > 1:
                _, shuffled = right_and_shuffled(model, data, table)
                heights[f"{split.value}, shuffled captions"] = shuffled.image
                figures[f"{split}_nats_image_shuffled"] = shuffled.image
                figures[f"{split}_caption_gain"] = shuffled.image - right.image
            reporter.log(step, {})
    train = data.plain_batch(data.stream(Split.TRAIN).all_rows(_ROWS))
    spread, used = perplexity(train.codes, model.image_vocabulary)
    figures |= {"codebook_perplexity": spread, "codebook_used": used}
    bars(heights, "nats per image token", output / "likelihood.png")

    held_out = data.stream(Split.HELD_OUT).all_rows(_SHOWN)
    if held_out.num_rows:
        captions = held_out["caption"].to_pylist()
        codes = data.plain_batch(held_out).codes.to(device).unflatten(1, (model.grid, model.grid))
        truth = to_images(decoder.reconstruct(codes))
        drawn = draw(model, decoder, data.encoder, captions, 3)
        rows = [
            (caption, [true, *to_images(some)])
            for caption, true, some in zip(captions, truth, drawn, strict=True)
        ]
        contact_sheet(rows, output / "held_out.png", columns=3, label_width=_LABEL_WIDTH)
    storage.write_json(str(output / "evaluation.json"), figures)


def _figures(split: str, found: Nats) -> dict[str, float | int]:
    return {
        f"{split}_rows": found.rows,
        f"{split}_nats_text": found.text,
        f"{split}_nats_image": found.image,
    }


if __name__ == "__main__":
    cli.run(evaluate)
