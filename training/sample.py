"""Draw pictures.

    python -m training.sample --checkpoint models/dalle --caption "a red heart" \\
      --candidates 512 --best 8 --out drawn

With `--caption`, the best of many candidates for it; without, a sheet of captions of the dataset.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from pipelines import storage
from training import cli, outputs, remote
from training.alone import only_program
from training.contrastive.checkpoint import model_id
from training.contrastive.rerank import Ranker, load_ranker, reranked
from training.dalle.precision import Precision
from training.drawing.captions import (
    FACTS,
    FILES,
    best_pictures,
    clean_caption,
    warn_if_cut,
    write_pictures,
)
from training.drawing.choosing import SamplingOptions
from training.drawing.pictures import contact_sheet, to_images
from training.drawing.prompts import read_prompt
from training.drawing.sampling import draw_codes, pictures_of
from training.drawing.sheet import choose_lines
from training.errors import InputError
from training.finished import sha256
from training.models.dvae import DVAE
from training.models.loading import (
    dataset_of,
    load_dvae,
    load_transformer,
    recipe_of,
    tokenizer_of,
)
from training.models.transformer import Transformer
from training.recipes import recipe as recipe_named
from training.reporting import Reporter
from training.splits import Split
from training.token_data import TokenData

_LABEL_WIDTH = 200
_SHEET = re.compile(rf"{re.escape(FACTS)}|\.?samples\.png")
_MARKS = {Split.HELD_OUT: "[held out] ", Split.VALIDATION: "[validation] ", Split.TRAIN: ""}


def sample(
    checkpoint: Annotated[
        Path, typer.Option(parser=remote.local, help="directory of the transformer")
    ],
    out: Annotated[
        Path, typer.Option(parser=remote.local, help="directory of pictures and samples.json")
    ],
    dvae: Annotated[
        Path | None,
        typer.Option(
            parser=remote.local, help="directory of the dVAE; default: beside the transformer"
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="a version token_dataset/v=...; default: what it was trained on"),
    ] = None,
    caption: Annotated[
        list[str] | None, typer.Option(help="draw this; may be given several times")
    ] = None,
    best: Annotated[
        int | None, typer.Option(min=1, help="pictures to keep for each --caption; default: 1")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="captions on the sheet")] = 64,
    candidates: Annotated[int, typer.Option(min=1, help="pictures for each caption")] = 3,
    temperature: Annotated[float, typer.Option(help="of the softmax; the paper's is 1")] = 1.0,
    top_k: Annotated[int, typer.Option(help="only the likeliest codes; 0: all")] = 0,
    top_p: Annotated[float, typer.Option(help="only codes of so much probability; 1: all")] = 1.0,
    guidance: Annotated[float, typer.Option(help="away from drawing without a caption")] = 1.0,
    prompt: Annotated[
        Path | None, typer.Option(help="with --caption: a picture to complete")
    ] = None,
    prompt_row: Annotated[
        int | None, typer.Option(help="with --prompt: row of codes the drawing begins at")
    ] = None,
    prompt_column: Annotated[
        int | None, typer.Option(help="with --prompt: column of codes it begins at")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="with --caption: partial.png, as far as it is drawn")
    ] = False,
    seed: Annotated[int, typer.Option(help="the same seed draws the same pictures")] = 0,
    rerank: Annotated[
        Path | None,
        typer.Option(
            parser=remote.local, help="contrastive model, or open_clip checkpoint: best first"
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="of the transformer; auto: bf16 on a GPU that has it, else fp32"),
    ] = "auto",
) -> None:
    """Draw the best of many pictures for captions, or a sheet of the dataset's captions."""
    options = SamplingOptions(temperature, top_k, top_p, guidance)
    _need("--caption", caption, {"--prompt": prompt, "--best": best, "--partial": partial or None})
    _need("--prompt", prompt, {"--prompt-row": prompt_row, "--prompt-column": prompt_column})
    if best and best > candidates:
        raise InputError(f"the best {best} of {candidates} candidates cannot be chosen")
    captions = [clean_caption(text) for text in caption or ()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = Precision(precision).on(device) is Precision.BF16
    dvae = dvae or checkpoint.absolute().parent / "dvae"
    model, decoder = load_transformer(checkpoint).to(device), load_dvae(dvae).to(device)
    model = model.bfloat16() if bf16 else model
    data = TokenData(dataset or dataset_of(checkpoint), recipe_named(recipe_of(checkpoint)))
    weights = {"dalle_sha256": sha256(checkpoint), "dvae_sha256": sha256(dvae)}
    data.require_dvae(weights["dvae_sha256"])
    data.require_text(model.text_vocabulary, model.text_length, tokenizer_of(checkpoint))
    facts: dict[str, Any] = {
        **weights,
        "candidates": candidates,
        "seed": seed,
        **dataclasses.asdict(options),
        "precision": "bf16" if bf16 else "fp32",
        "dataset": data.manifest.version,
        "reranked_by": model_id(rerank) if rerank else None,
        "prompt": None,
    }
    rank = load_ranker(rerank, device) if rerank else None
    given = None
    if prompt:
        row, column = prompt_row or 0, prompt_column or 0
        given, digest = read_prompt(prompt, decoder, row, column)
        facts["prompt"] = {"sha256": digest, "row": row, "column": column}
    outputs.require_writable(out)
    with only_program(out):
        outputs.clear(out, FILES if captions else _SHEET, FACTS)
        if not captions:
            _sheet(model, decoder, data, out, limit, options, rank, facts)
        for i, text in enumerate(captions):
            warn_if_cut(data.encoder, text)
            directory = out / f"caption-{i:02d}"
            found = best_pictures(
                model, decoder, data.encoder, text,
                candidates=candidates, best=best or 1, seed=seed, options=options, prompt=given,
                rank=rank, partial=directory / "partial.png" if partial else None,
            )  # fmt: skip
            write_pictures(directory, text, *found, facts)
        remote.push_files(out)


def _need(name: str, given: object, options: Mapping[str, object]) -> None:
    """Refuse options, None where they were not given, that mean nothing without another one."""
    useless = [option for option, value in options.items() if value is not None]
    if useless and not given:
        raise InputError(f"{useless[0]} means nothing without {name}; give {name}, or leave it out")


def _sheet(
    model: Transformer,
    dvae: DVAE,
    data: TokenData,
    out: Path,
    limit: int,
    options: SamplingOptions,
    rank: Ranker | None,
    facts: dict[str, Any],
) -> None:
    """A contact sheet: a caption and samples for it on every line."""
    lines = choose_lines(data, limit)
    captions = [line.caption for line in lines]
    total = len(lines) * facts["candidates"]
    drawn: list[Tensor] = []
    with (
        Reporter(None, total) as reporter,
        tqdm(total=total * model.grid**2, unit="code", unit_scale=True, disable=None) as bar,
    ):
        for codes, _ in draw_codes(
            model, data.encoder, captions, facts["candidates"],
            seed=facts["seed"], options=options, progress=bar.update,
        ):  # fmt: skip
            drawn.append(pictures_of(dvae, codes))
            bar.clear()
            reporter.log(sum(map(len, drawn)), {})
    pictures = torch.cat(drawn).unflatten(0, (len(lines), facts["candidates"]))
    scores: list[list[float]] = [[] for _ in lines]
    if rank is not None:
        pictures, found = reranked(pictures, captions, rank)
        scores = found.tolist()
    rows = [
        (_MARKS[line.split] + line.caption, to_images(row))
        for line, row in zip(lines, pictures, strict=True)
    ]
    contact_sheet(rows, out / "samples.png", columns=4, label_width=_LABEL_WIDTH)
    facts = {
        **facts,
        "captions": [
            {"caption": line.caption, "split": line.split, "scores": of_line}
            for line, of_line in zip(lines, scores, strict=True)
        ],
    }
    storage.write_json(str(out / FACTS), facts)


if __name__ == "__main__":
    cli.run(sample)
