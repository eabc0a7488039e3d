"""`python -m pipelines.publish.show`: a published version at a glance."""

from typing import Annotated

import typer

from pipelines import commands, parquet
from pipelines.crawl.http.outcomes import printable
from pipelines.publish.manifest import Manifest, read_manifest

_CAPTION = 72


def lines(manifest: Manifest, examples: int) -> list[str]:
    """What to print: rows, columns, funnel, examples.

    Args:
        manifest: of the version.
        examples: rows to show.
    """
    size = sum(file.bytes for file in manifest.files)
    shown = [
        f"{manifest.title}: version {manifest.version}, published {manifest.created_at}",
        f"{manifest.rows:,} rows ({manifest.crops} for each pair), {size:,} bytes, "
        f"{len(manifest.token_files)} + {len(manifest.metadata_files)} Parquet files, "
        f"{len(manifest.batches):,} crawl batches",
        f"images of {manifest.image_size} px as {manifest.grid} x {manifest.grid} codes of "
        f"{manifest.image_vocabulary:,} (dVAE {manifest.dvae_sha256[:12]}); captions as at most "
        f"{manifest.text_max_length} ids of {manifest.text_vocabulary:,} "
        f"(tokenizer {manifest.tokenizer_sha256[:12]})",
    ]
    if manifest.parent:
        shown.append(f"made from version {manifest.parent} by a takedown")
    for table, files in (("tokens", manifest.token_files), ("metadata", manifest.metadata_files)):
        shown += ["", f"{table}/"]
        schema = parquet.read_schema(manifest.url(files[0]))
        shown += [f"  {field.name:18} {field.type}" for field in schema]
    shown += ["", f"{'dataset':24}{'in':>14}{'kept':>14}{'dropped':>14}"]
    for record in manifest.funnel():
        dropped = record.rows_in - record.kept
        shown.append(f"{record.dataset:24}{record.rows_in:14,}{record.kept:14,}{dropped:14,}")
        ranked = sorted(record.dropped.items(), key=lambda item: (-item[1], item[0]))
        shown += [f"  {reason:50}{count:14,}" for reason, count in ranked]
    return [*shown, "", *_examples(manifest, examples)]


def _examples(manifest: Manifest, count: int) -> list[str]:
    columns = ["uid", "caption", "text_length", "image_tokens"]
    first = manifest.url(manifest.token_files[0])
    rows = next(parquet.read_batches(first, columns=columns)).slice(0, count).to_pylist()
    return [
        f"{row['uid'].hex()}  {row['text_length']:3} ids  codes "
        f"{' '.join(map(str, row['image_tokens'][:4]))} ...  {printable(row['caption'])[:_CAPTION]}"
        for row in rows
    ]


def main(
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="Directory token_dataset/v=..., or token_dataset for the current one.",
            show_default=False,
        ),
    ],
    examples: Annotated[int, typer.Option(min=0, help="Rows to show.")] = 5,
) -> None:
    """Print what a published version holds: rows, columns, funnel and examples.

    \b
    python -m pipelines.publish.show demo/data/token_dataset
    """
    for line in lines(read_manifest(version.rstrip("/")), examples):
        typer.echo(line)


if __name__ == "__main__":
    commands.run(main)
