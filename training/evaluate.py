"""Measure finished models on what they were not trained on: `python -m training.evaluate ...`."""

import math
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import torch
import typer

from training import cli, model_report
from training.drawing.pictures import bars, contact_sheet, to_images
from training.drawing.sampling import draw
from training.dvae.codebook import perplexity
from training.finished import sha256
from training.likelihood import Nats, nats, right_and_shuffled
from training.metrics.features import load_network
from training.metrics.protocol import blur_figures
from training.models.dvae import DVAE
from training.models.loading import load_dvae, load_transformer, recipe_of
from training.models.transformer import Transformer
from training.recipes import recipe as recipe_named
from training.reporting import Reporter
from training.splits import Split
from training.token_data import TokenData

_ROWS = 512
_SHOWN = 24
_LABEL_WIDTH = 200
_LEAST_PICTURES = 2
_CHUNK = 64


def evaluate(
    dalle: Annotated[Path, typer.Option(help="directory of the transformer")],
    dvae: Annotated[Path, typer.Option(help="directory of the dVAE")],
    dataset: Annotated[str, typer.Option(help="a version token_dataset/v=...")],
    output: Annotated[Path, typer.Option(help="directory of the report, its figures and plots")],
    pictures: Annotated[
        int, typer.Option(help="drawn for FID, KID and IS, one a caption; 0: none")
    ] = 96,
    inception: Annotated[
        Path | None,
        typer.Option(help="standard Inception weights; without them EfficientNet-lite0 compares"),
    ] = None,
) -> None:
    """Likelihood with right and with shuffled captions, codebook use, pictures and their FID.

    Writes report.html, which holds everything, and the figures as JSON and Parquet.
    """
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
    if pictures:
        figures |= _fidelity(model, decoder, data, pictures, inception, output / "blur.png")
    shown = [
        *(dalle / "curves.png", dvae / "curves.png", dvae / "reconstructions.png"),
        *(output / name for name in ("likelihood.png", "blur.png", "held_out.png")),
    ]
    model_report.write(output, {"dvae": dvae, "dalle": dalle}, data.manifest, figures, shown)


def _fidelity(
    model: Transformer,
    decoder: DVAE,
    data: TokenData,
    count: int,
    inception: Path | None,
    plot: Path,
) -> dict[str, float | int | str]:
    """Drawn pictures against reconstructions of what the captions belong to.

    Nothing that was trained on is compared. The published dataset has codes, no pictures; so what
    the dVAE loses is on both sides, and the figure is of the transformer alone.
    """
    tables = [data.stream(split).all_rows(count) for split in (Split.VALIDATION, Split.HELD_OUT)]
    rows = _distinct_captions(pa.concat_tables(tables)).slice(0, count)
    if rows.num_rows < _LEAST_PICTURES:
        return {}
    network = load_network(inception, model.image_head.weight.device.type)
    drawn = draw(model, decoder, data.encoder, rows["caption"].to_pylist(), 1).squeeze(1)
    codes = data.plain_batch(rows).codes.unflatten(1, (model.grid, model.grid))
    reference = torch.cat(
        [decoder.reconstruct(part.to(drawn.device)).cpu() for part in codes.split(_CHUNK)]
    )
    return blur_figures(network, drawn.cpu(), reference, plot, progress=typer.echo)


def _distinct_captions(rows: pa.Table) -> pa.Table:
    """The first row of each caption: equal captions would draw equal pictures."""
    first: dict[str, int] = {}
    for index, caption in enumerate(rows["caption"].to_pylist()):
        first.setdefault(caption, index)
    return rows.take(list(first.values()))


def _figures(split: str, found: Nats) -> dict[str, float | int]:
    return {
        f"{split}_rows": found.rows,
        f"{split}_nats_text": found.text,
        f"{split}_nats_image": found.image,
    }


if __name__ == "__main__":
    cli.run(evaluate)
