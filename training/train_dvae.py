"""Train stage one, the dVAE: `torchrun -m training.train_dvae --recipe demo --pairs DIR ...`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipelines import ledger
from pipelines.storage import list_files
from training import cli, code_versions, finished, loop, remote, runtime
from training.alone import only_program
from training.checkpoints import checkpoint
from training.config import Recipe
from training.dvae import report as dvae_report
from training.dvae.codebook import COLLAPSE_ADVICE
from training.dvae.trainer import DVAETrainer, Execution
from training.dvae.validation import Validation
from training.recipes import recipe as recipe_named
from training.schedules import cosine


class _Measures:
    """What updates alone do not tell: codebook use, and the bounds on unseen pictures."""

    def __init__(self, trainer: DVAETrainer, validation: Validation, output: Path):
        self._trainer, self._validation, self._output = trainer, validation, output
        self._picture: Path | None = None

    def measure(self, done: int) -> Mapping[str, float]:
        """Figures after `done` updates; the first process alone looks at unseen pictures."""
        trainer = self._trainer
        figures = trainer.codebook_use()
        if trainer.runtime.first:
            self._picture = self._output / "progress" / f"update-{done:09d}.png"
            figures |= self._validation.measure(
                trainer.averaged(),
                cosine(trainer.training.temperature, done - 1),
                cosine(trainer.training.kl_weight, done - 1),
                self._picture,
            )
        return figures

    def pictures(self) -> Mapping[str, Path]:
        """Reconstructions of the last measurement."""
        return {"reconstructions": self._picture} if self._picture else {}


def _fingerprint(recipe: Recipe, updates: int, contents: list[str]) -> str:
    numbers = dataclasses.asdict(recipe)
    plain = [numbers[part] for part in ("dvae", "dvae_training", "split")]
    return ledger.fingerprint(code_versions.DVAE, [plain, updates], contents)


def train(
    recipe: Annotated[str, typer.Option(help="name of a recipe of training/recipes.py")],
    pairs: Annotated[list[str], typer.Option(help="directory deduped_pairs/batch=...; repeatable")],
    output: Annotated[
        Path, typer.Option(parser=remote.local, help="directory of checkpoints and the result")
    ],
    updates: Annotated[
        int, typer.Option(min=0, help="end after so many updates; 0: the recipe's")
    ] = 0,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile; default: on a GPU"),
    ] = None,
    recompute: Annotated[
        bool, typer.Option(help="recompute activations in the backward pass, to save memory")
    ] = False,
) -> None:
    """Train the dVAE, going on from the newest checkpoint in OUTPUT."""
    chosen = recipe_named(recipe)
    training = chosen.dvae_training
    total = updates or training.updates
    contents = [ledger.require_success(directory).content for directory in pairs]
    fingerprint = _fingerprint(chosen, total, contents)
    with only_program(output):
        if finished.is_current(output, fingerprint):
            typer.echo(f"{output} is up to date")
            return
        process = runtime.start()
        files = [f for directory in pairs for f in list_files(directory, ".parquet")]
        execution = Execution(
            process.device.type == "cuda" if compiled is None else compiled, recompute
        )
        trainer = DVAETrainer(chosen, files, process, fingerprint, execution)
        unseen = dvae_report.unseen(files, chosen, training.validation_images)
        trained_on = finished.trained_on_pairs(pairs, contents, code_versions.DVAE)
        measures = _Measures(trainer, Validation(unseen, training.least_log_scale), output)
        loop.run(
            trainer,
            output,
            updates=total,
            report_every=min(training.report_every, max(1, total // 20)),
            checkpoint_seconds=training.checkpoint_seconds,
            per_update={"images_per_s": training.batch},
            look=loop.Look(training.validate_every, measures.measure, pictures=measures.pictures),
            trained_on=trained_on,
        )
        runtime.leave()
        if process.first:
            model = trainer.averaged()
            facts = {"recipe": chosen.name, "updates": total}
            measured = dvae_report.write(model, output, files, chosen)
            summary = measured | facts | trained_on
            finished.write(output, fingerprint, model, chosen.dvae, summary)
            checkpoint.clear(output / "checkpoints")
            if float(str(summary["codebook_perplexity"])) < chosen.least_perplexity:
                typer.echo(f"warning: {COLLAPSE_ADVICE}", err=True)


if __name__ == "__main__":
    cli.run(train)
