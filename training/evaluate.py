"""Measure finished models on what they were not trained on: `python -m training.evaluate ...`."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from pipelines import ledger
from pipelines.storage import list_files
from training import cli, model_report, outputs, remote
from training.alone import only_program
from training.config import Recipe
from training.contrastive.checkpoint import load_embedder, model_id
from training.drawing.pictures import contact_sheet, to_images
from training.drawing.sampling import draw, pictures_of
from training.errors import InputError
from training.finished import sha256
from training.human import pictures as human_pictures
from training.metrics import likelihoods, protocol, reconstruction, retrieval
from training.metrics.coco import CAPTIONS, KEY
from training.metrics.coco import coco as coco_set
from training.metrics.cub import cub as cub_set
from training.metrics.drawings import Drawings, Painter
from training.metrics.features import Network, load_network
from training.metrics.overlap import copied_references, not_given, overlapping
from training.metrics.reference_set import ReferenceSet
from training.metrics.unseen import unseen_codes, unseen_pictures
from training.metrics.versions import versions
from training.model_report import Section, Value
from training.models.dvae import DVAE
from training.models.loading import load_dvae, load_transformer, recipe_of, tokenizer_of
from training.recipes import recipe as recipe_named
from training.reporting import Reporter
from training.splits import Split
from training.token_data import TokenData

_LEAST, _MOST_CANDIDATES = 2, 512
_SHOWN, _DRAWN = 24, 3
_CURVES = "curves.png"
_LABEL_WIDTH = 200
_FOR_PEOPLE = "human"


def evaluate(
    dalle: Annotated[Path, typer.Option(parser=remote.local, help="directory of the transformer")],
    dvae: Annotated[Path, typer.Option(parser=remote.local, help="directory of the dVAE")],
    dataset: Annotated[str, typer.Option(help="a version token_dataset/v=...")],
    output: Annotated[
        Path,
        typer.Option(parser=remote.local, help="directory of the report, its figures and plots"),
    ],
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            help="directory deduped_pairs/batch=... of the dataset, repeatable: gives the unseen "
            "pictures, and the references that the crawl has copies of"
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=_LEAST, help="captions of the dataset's own unseen rows, at most")
    ] = 96,
    coco: Annotated[
        Path | None, typer.Option(help="MS-COCO: annotations/captions_val2014.json and val2014/")
    ] = None,
    coco_captions: Annotated[
        int, typer.Option(min=_LEAST, help="of its validation split, each with a picture")
    ] = CAPTIONS,
    cub: Annotated[
        Path | None, typer.Option(help="CUB-200-2011: images.txt, images/ ..., and text_c10/")
    ] = None,
    cub_captions: Annotated[
        int | None, typer.Option(min=_LEAST, help="of its test split; all if not said")
    ] = None,
    rerank: Annotated[
        Path | None,
        typer.Option(
            parser=remote.local,
            help="contrastive model, or open_clip checkpoint, that chooses among candidates",
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(
            min=1, max=_MOST_CANDIDATES, help="drawn for each caption, with --rerank; paper: 512"
        ),
    ] = 1,
    inception: Annotated[
        Path | None,
        typer.Option(help="standard Inception weights; without them EfficientNet-lite0 compares"),
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="draw in bf16, likelihood in fp32")] = False,
    seed: Annotated[int, typer.Option(help="of the captions' choice and of the drawing")] = 0,
    human: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="write the best pictures of so many captions, MS-COCO's with --coco, into "
            "OUTPUT/human, for training.human_evaluation; paper: 1000",
        ),
    ] = None,
) -> None:
    """Likelihood, and drawn pictures against real ones by FID, KID and IS.

    The captions are the dataset's own unseen ones, MS-COCO's with --coco and CUB's with --cub.
    Writes report.html, which holds everything, and the figures as JSON and Parquet, into OUTPUT
    and, where no other model's report replaces them, OUTPUT/model=HASH. Drawn codes stay in
    OUTPUT/.drawn, so that a killed evaluation goes on.
    """
    if candidates > 1 and rerank is None:
        raise InputError(
            f"nothing chooses among {candidates} candidates; give --rerank, or leave --candidates"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, decoder = load_transformer(dalle).to(device), load_dvae(dvae).to(device)
    recipe = recipe_named(recipe_of(dalle))
    data = TokenData(dataset, recipe)
    data.require_dvae(sha256(dvae))
    data.require_text(model.text_vocabulary, model.text_length, tokenizer_of(dalle))
    batches = list(pairs or ())
    sets = [_unseen(data, decoder, recipe, batches, pictures)]
    size = decoder.config.image_size
    if coco is not None:
        sets.append(coco_set(coco, coco_captions, size, seed))
    if cub is not None:
        sets.append(cub_set(cub, cub_captions, size, seed))
    judged = _judged(sets) if human else None
    copied = copied_references(batches) if batches and len(sets) > 1 else None
    unknown = not_given(data.manifest.batches, batches)
    network = load_network(inception, device)
    embedder = load_embedder(rerank, device) if rerank else None

    outputs.require_writable(output)
    with only_program(output):
        sections = [likelihoods.measure(model, data, output)]
        identity = {
            "dalle": sha256(dalle),
            "dvae": data.manifest.dvae_sha256,
            "tokenizer": data.manifest.tokenizer_sha256,
            "precision": "bf16" if bf16 else "fp32",
        }
        reranker = model_id(rerank) if rerank else ""
        painter = Painter(
            model.bfloat16() if bf16 else model, decoder, data.encoder, identity, embedder, reranker
        )
        sections += _held_out(painter, data, output)
        for one, drawings in _drawn(painter, sets, candidates, output, seed):
            if human and one is judged:
                _for_people(drawings, human, output / _FOR_PEOPLE)
            sections += _measured(one, drawings, network, copied, unknown, output)
        sections += _training(dalle, dvae, data, identity["dalle"])
        sources = {
            f"{one.title}, {name}": digest for one in sets for name, digest in one.sources.items()
        }
        measured = {
            "network": network.name, "weights of the network": network.weights,
            "precision of drawing": identity["precision"], "seed": seed,
            "candidates": candidates, "reranker": reranker,
            **sources,
        }  # fmt: skip
        rests_on = versions({"dvae": dvae, "dalle": dalle}, data.manifest, measured)
        model_report.write(output, identity["dalle"], data.manifest, sections, rests_on)
        remote.push_files(output)
    typer.echo(f"the report is {output / model_report.REPORT}")


def _training(dalle: Path, dvae: Path, data: TokenData, weights: str) -> list[Section]:
    """What the trainings left: curves, and reconstructions."""
    shown = [dvae / _CURVES, dvae / "reconstructions.png"]
    figures: dict[str, Value] = {"dataset": data.manifest.version, "dalle_sha256": weights}
    return [
        Section("Training of the transformer", [], figures, [remote.pull_file(dalle / _CURVES)]),
        Section("Training of the dVAE", [], {}, [remote.pull_file(path) for path in shown]),
    ]


def _unseen(
    data: TokenData, decoder: DVAE, recipe: Recipe, batches: Sequence[str], count: int
) -> ReferenceSet:
    """The dataset's own unseen rows: pictures where they are at hand, else reconstructions."""
    if not batches:
        return unseen_codes(data, decoder, count)
    for directory in batches:
        ledger.require_success(directory)
    files = [file for directory in batches for file in list_files(directory, ".parquet")]
    return unseen_pictures(files, recipe, count)


def _held_out(painter: Painter, data: TokenData, output: Path) -> list[Section]:
    """A sheet of captions whose pattern was held out; nothing where none is."""
    rows = data.stream(Split.HELD_OUT).all_rows(_SHOWN)
    if not rows.num_rows:
        return []
    typer.echo("drawing held-out captions")
    model, dvae, encoder = painter.transformer, painter.dvae, painter.encoder
    captions = rows["caption"].to_pylist()
    codes = data.plain_batch(rows).codes.to(dvae.encoder.input.weight.device)
    drawn = draw(model, dvae, encoder, captions, _DRAWN)
    lines = [
        (caption, [true, *to_images(some)])
        for caption, true, some in zip(
            captions, to_images(pictures_of(dvae, codes)), drawn, strict=True
        )
    ]
    path = output / "held_out.png"
    contact_sheet(lines, path, columns=3, label_width=_LABEL_WIDTH)
    note = "Captions of held-out patterns: the reconstruction of their picture, then three drawn."
    return [Section("Held-out captions", [note], {}, [path])]


def _log(reporter: Reporter, before: int, done: int) -> None:
    reporter.log(before + done, {})


def _judged(sets: Sequence[ReferenceSet]) -> ReferenceSet:
    """The set whose pictures people judge: MS-COCO as in the paper, else the dataset's own."""
    found = next((one for one in sets if one.key == KEY), sets[0])
    if len(found.captions) < _LEAST:
        raise InputError(
            "the dataset has no unseen captions whose pictures people could judge; give --coco, "
            "or leave --human"
        )
    return found


def _for_people(drawings: Drawings, count: int, directory: Path) -> None:
    """The best picture of each of the first captions, as Appendix F shows them to people."""
    best = drawings.best(drawings.candidates)[:count]
    human_pictures.write(directory, drawings.captions[:count], drawings.pictures(best))
    typer.echo(f"{directory}: {len(best):,} pictures for people to judge")


def _drawn(
    painter: Painter, sets: Sequence[ReferenceSet], candidates: int, output: Path, seed: int
) -> Iterator[tuple[ReferenceSet, Drawings]]:
    """Each set that has pictures enough to compare, with the drawings of its captions."""
    enough = [one for one in sets if len(one.captions) >= _LEAST]
    before = 0
    with Reporter(None, sum(len(one.captions) * candidates for one in enough)) as reporter:
        for one in enough:
            place = output / ".drawn" / (one.key or "unseen")
            drawings = Drawings(painter, one.captions, candidates, place, seed)
            typer.echo(f"{one.title}: drawing {len(drawings):,} pictures")
            drawings.draw(partial(_log, reporter, before))
            before += len(drawings)
            yield one, drawings


def _measured(
    references: ReferenceSet,
    drawings: Drawings,
    network: Network,
    copied: frozenset[str] | None,
    unknown: Sequence[str],
    output: Path,
) -> list[Section]:
    """Sections of a set: fidelity, and of real pictures what the other models make of them."""
    # Of the dataset's own rows none is a reference of the index.
    indexed = bool(references.key)
    left_out = overlapping(references.names, copied) if indexed and copied is not None else None
    painter = drawings.painter
    compared = protocol.measure(references, drawings, network, left_out, output)
    if indexed and unknown:
        note = (
            f"Of {len(unknown):,} batches of the dataset, {unknown[0]} the first, it is not known "
            "which references they copy: --pairs did not name them."
        )
        compared = dataclasses.replace(compared, notes=[*compared.notes, note])
    sections = [compared]
    if references.real:
        sections.append(reconstruction.measure(references, painter.dvae, output))
    if references.real and painter.embedder is not None:
        name = painter.embedder_id
        sections.append(retrieval.measure(references, painter.embedder, name, output))
    return sections


if __name__ == "__main__":
    cli.run(evaluate)
