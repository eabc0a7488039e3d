"""Pictures to token grids without Dagster: `python -m training.tokenize_images`.

It joins two rooms, as the asset does: the stage of `pipelines.encode` and a trained dVAE.
"""

import functools
import hashlib
from typing import Annotated

import typer

from pipelines import commands, ledger, parquet, progress, storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.decode import decode
from pipelines.curate.measure import working_side
from pipelines.encode.bpe import load_tokenizer
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.encoder import ImageFacts, TextFacts
from pipelines.encode.folder import list_pictures, read_listed
from pipelines.encode.transform import COLUMNS, DATASET, Source, write_token_grids
from pipelines.layout import join
from pipelines.places import refuse_other_data
from training.image_tokenizer import Precision, image_tokenizer_info, load_image_tokenizer

_INPUTS = "_inputs"
_REJECTS = "_rejects"
_DEFAULT = EncodeConfig()


def tokenize_images(
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="Folder of pictures, or finished directory of curated_pairs or deduped_pairs.",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        str, typer.Option(metavar="DIR", help="Directory of a finished dVAE (final/ inside).")
    ],
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Directory or fsspec URL of the token grids.")
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="tokenizer.json; needed where there are captions."),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="CSV, TSV or Parquet with columns file_name and caption; "
            "else NAME.txt beside each picture is read.",
        ),
    ] = None,
    text_length: Annotated[
        int, typer.Option(min=1, help="Ids kept of a caption.")
    ] = BpeConfig.max_length,
    crops: Annotated[
        int, typer.Option(min=1, help="Crops of each picture, one row each.")
    ] = _DEFAULT.crops,
    precision: Annotated[
        Precision, typer.Option(help="bf16 is many times as fast on GPUs, and slower on most CPUs.")
    ] = "fp32",
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures handed to the dVAE at once.")
    ] = _DEFAULT.batch,
    processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Encode pictures as grids of dVAE codes, and their captions as BPE ids.

    Writes token_grids as Parquet into OUTPUT, pictures that cannot be decoded into OUTPUT/_rejects,
    and prints how many of each. The same command again does nothing, or goes on where a killed one
    stopped.

    python -m training.tokenize_images photos --checkpoint models/dvae --output tokens

    python -m training.tokenize_images photos --captions photos.csv --tokenizer tokenizer.json
    --checkpoint models/dvae --output tokens
    """
    config = EncodeConfig(crops=crops, precision=precision, batch=batch)
    info = image_tokenizer_info(checkpoint)
    facts = ImageFacts(info.sha256, info.image_size, info.grid, info.vocabulary, precision)
    refuse_other_data(output, DATASET)
    source, pairs, captioned = _source(images, captions, output, info.image_size)
    if captioned and tokenizer is None:
        raise ValueError(
            f"{captioned:,} pictures have captions; name the tokenizer.json that encodes them "
            "with --tokenizer"
        )
    text = None if tokenizer is None else _text_facts(tokenizer, text_length)
    engine = commands.engine(processes)
    look = functools.partial(progress.rows_done, output)
    with progress.on_terminal(look, "pictures", pairs, quiet=quiet):
        finished = write_token_grids(
            source,
            text,
            facts,
            functools.partial(load_image_tokenizer, checkpoint, precision),
            config,
            engine,
            output=output,
            rejects=join(output, _REJECTS),
        )
    print("\n".join(commands.funnel_lines(finished.funnel)))
    print(f"{finished.rows:,} rows of {info.grid}x{info.grid} codes in {output}")


def _source(
    images: str, captions: str | None, output: str, image_size: int
) -> tuple[Source, int, int]:
    """The pairs, their number, and how many of them have captions."""
    shards = storage.list_files(images, ".parquet")
    if not shards:
        listing = list_pictures(images, captions, join(output, _INPUTS))
        limits = CurateConfig()
        opened = functools.partial(
            decode,
            formats=limits.formats,
            max_pixels=limits.max_pixels,
            at_least=working_side(image_size),
        )
        read = functools.partial(read_listed, images)
        source = Source(listing.shards, listing.content, read, opened)
        return source, listing.pictures, listing.captions
    if captions is not None:
        raise ValueError(f"{images} holds pairs with captions; leave --captions out")
    missing = [name for name in COLUMNS if name not in parquet.read_schema(shards[0]).names]
    if missing:
        raise ValueError(
            f"{shards[0]} has no column {', '.join(missing)}; name a directory of curated_pairs or "
            "deduped_pairs, or a folder of pictures"
        )
    finished = ledger.require_parts(images)
    return Source(shards, finished.content), finished.funnel.kept, finished.funnel.kept


def _text_facts(url: str, max_length: int) -> TextFacts:
    digest = hashlib.sha256(storage.read_bytes(url)).hexdigest()
    vocabulary = load_tokenizer(url, digest).get_vocab_size()
    return TextFacts(url, digest, vocabulary, max_length)


if __name__ == "__main__":
    commands.run(tokenize_images)
