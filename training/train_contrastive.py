"""Train the image-text model: `torchrun -m training.train_contrastive --recipe demo ...`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from pipelines import ledger, storage
from pipelines.layout import join
from pipelines.storage import list_files
from training import cli, code_versions, finished, loop, remote, runtime
from training.alone import only_program
from training.checkpoints import checkpoint
from training.contrastive import report as contrastive_report
from training.contrastive.embedding import Embedder
from training.contrastive.open_clip_config import own_config
from training.contrastive.text import TOKENIZER
from training.contrastive.trainer import ContrastiveTrainer
from training.recipes import recipe as recipe_named


def train(
    recipe: Annotated[str, typer.Option(help="name of a recipe of training/recipes.py")],
    pairs: Annotated[list[str], typer.Option(help="directory deduped_pairs/batch=...; repeatable")],
    tokenizer: Annotated[str, typer.Option(help="directory bpe_tokenizer")],
    output: Annotated[
        Path, typer.Option(parser=remote.local, help="directory of checkpoints and the result")
    ],
    updates: Annotated[
        int, typer.Option(min=0, help="end after so many updates; 0: the recipe's")
    ] = 0,
) -> None:
    """Train the contrastive model, going on from the newest checkpoint in OUTPUT."""
    chosen = recipe_named(recipe)
    training = chosen.contrastive_training
    total = updates or training.updates
    *contents, words_content = [
        ledger.require_success(place).content for place in (*pairs, tokenizer)
    ]
    numbers = dataclasses.asdict(chosen)
    plain = [numbers[part] for part in ("text", "contrastive", "contrastive_training", "split")]
    fingerprint = ledger.fingerprint(
        code_versions.CONTRASTIVE, [plain, total], [*contents, words_content]
    )
    with only_program(output):
        if finished.is_current(output, fingerprint):
            typer.echo(f"{output} is up to date")
            return
        process = runtime.start()
        files = [f for directory in pairs for f in list_files(directory, ".parquet")]
        words = storage.read_bytes(join(tokenizer, TOKENIZER)).decode()
        trainer = ContrastiveTrainer(chosen, files, words, process, fingerprint)
        batch = trainer.training.batch
        if process.first and batch < training.batch:
            typer.echo(f"warning: the data holds {batch} pairs; a batch is these", err=True)
        trained_on = finished.trained_on_pairs(pairs, contents, code_versions.CONTRASTIVE)
        loop.run(
            trainer,
            output,
            updates=total,
            report_every=min(training.report_every, max(1, total // 20)),
            checkpoint_seconds=training.checkpoint_seconds,
            per_update={"pairs_per_s": batch},
            trained_on=trained_on,
        )
        runtime.leave()
        if process.first:
            facts = {"recipe": chosen.name, "updates": total, **trained_on}
            embedder = Embedder(trainer.model.eval(), trainer.text)
            summary = contrastive_report.write(embedder, output, files, chosen.split) | facts
            config = own_config(trainer.model)
            finished.write(
                output, fingerprint, trainer.model, config, summary, tokenizer_json=words
            )
            checkpoint.clear(output / "checkpoints")


if __name__ == "__main__":
    cli.run(train)
