"""Draw pictures: `python -m training.sample ...`.

With `--caption`, the best of many candidates for it; without, a sheet of captions of the dataset.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pipelines import storage
from training import cli
from training.contrastive.checkpoint import model_id
from training.contrastive.rerank import Ranker, load_ranker, reranked
from training.drawing.captions import (
    best_pictures,
    clean_caption,
    read_prompt,
    warn_if_cut,
    write_pictures,
)
from training.drawing.pictures import contact_sheet, to_images
from training.drawing.sampling import SamplingOptions, draw
from training.drawing.sheet import choose_lines
from training.errors import InputError
from training.finished import sha256
from training.models.dvae import DVAE
from training.models.loading import load_dvae, load_transformer, recipe_of
from training.models.transformer import Transformer
from training.recipes import recipe as recipe_named
from training.reporting import Reporter
from training.splits import Split
from training.token_data import TokenData

_LABEL_WIDTH = 200
_MARKS = {Split.HELD_OUT: "[held out] ", Split.VALIDATION: "[validation] ", Split.TRAIN: ""}


def sample(
    dalle: Annotated[
        Path, typer.Option("--dalle", "--checkpoint", help="directory of the transformer")
    ],
    dvae: Annotated[Path, typer.Option(help="directory of the dVAE")],
    dataset: Annotated[str, typer.Option(help="a version token_dataset/v=...")],
    output: Annotated[
        Path, typer.Option("--output", "--out", help="directory of pictures and samples.json")
    ],
    caption: Annotated[
        list[str] | None, typer.Option(help="draw this; may be given several times")
    ] = None,
    best: Annotated[int, typer.Option(min=1, help="pictures to keep for each --caption")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="captions on the sheet")] = 64,
    candidates: Annotated[int, typer.Option(min=1, help="pictures for each caption")] = 3,
    temperature: Annotated[float, typer.Option(help="of the softmax; the paper's is 1")] = 1.0,
    top_k: Annotated[int, typer.Option(help="only the likeliest codes; 0: all")] = 0,
    top_p: Annotated[float, typer.Option(help="only codes of so much probability; 1: all")] = 1.0,
    guidance: Annotated[float, typer.Option(help="away from drawing without a caption")] = 1.0,
    prompt: Annotated[
        Path | None, typer.Option(help="with --caption: a picture to complete")
    ] = None,
    prompt_row: Annotated[int, typer.Option(help="row of codes the drawing begins at")] = 0,
    prompt_column: Annotated[int, typer.Option(help="column of codes it begins at")] = 0,
    seed: Annotated[int, typer.Option(help="the same seed draws the same pictures")] = 0,
    rerank: Annotated[
        Path | None, typer.Option(help="contrastive model, or open_clip checkpoint: best first")
    ] = None,
) -> None:
    """Draw the best of many pictures for captions, or a sheet of the dataset's captions."""
    options = SamplingOptions(temperature, top_k, top_p, guidance)
    if prompt and not caption:
        raise InputError("--prompt completes a picture for a --caption; give one")
    captions = [clean_caption(text) for text in caption or ()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, decoder = load_transformer(dalle).to(device), load_dvae(dvae).to(device)
    data = TokenData(dataset, recipe_named(recipe_of(dalle)))
    data.require_dvae(sha256(dvae))
    facts = {
        "seed": seed,
        **dataclasses.asdict(options),
        "dataset": data.manifest.version,
        "reranked_by": model_id(rerank) if rerank else None,
    }
    rank = load_ranker(rerank, device) if rerank else None
    if not captions:
        _sheet(model, decoder, data, output, limit, candidates, options, rank, facts)
        return
    given = read_prompt(prompt, decoder, prompt_row, prompt_column) if prompt else None
    for i, text in enumerate(captions):
        warn_if_cut(data.encoder, text)
        found = best_pictures(
            model, decoder, data.encoder, text,
            candidates=candidates, best=best, seed=seed, options=options, prompt=given, rank=rank,
        )  # fmt: skip
        write_pictures(output / f"caption-{i:02d}", text, *found, facts)


def _sheet(
    model: Transformer,
    dvae: DVAE,
    data: TokenData,
    output: Path,
    limit: int,
    candidates: int,
    options: SamplingOptions,
    rank: Ranker | None,
    facts: dict[str, Any],
) -> None:
    """A contact sheet: a caption and samples for it on every line."""
    lines = choose_lines(data, limit)
    captions = [line.caption for line in lines]
    with Reporter(None, len(lines) * candidates) as reporter:
        pictures = draw(
            model,
            dvae,
            data.encoder,
            captions,
            candidates,
            seed=facts["seed"],
            options=options,
            progress=lambda done: reporter.log(done, {}),
        )
    scores: list[list[float]] = [[] for _ in lines]
    if rank is not None:
        pictures, found = reranked(pictures, captions, rank)
        scores = found.tolist()
    rows = [
        (_MARKS[line.split] + line.caption, to_images(row))
        for line, row in zip(lines, pictures, strict=True)
    ]
    contact_sheet(rows, output / "samples.png", columns=4, label_width=_LABEL_WIDTH)
    facts = {
        **facts,
        "captions": [
            {"caption": line.caption, "split": line.split, "scores": of_line}
            for line, of_line in zip(lines, scores, strict=True)
        ],
    }
    storage.write_json(str(output / "samples.json"), facts)


if __name__ == "__main__":
    cli.run(sample)
