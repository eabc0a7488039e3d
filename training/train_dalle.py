"""Train stage two, the transformer: `torchrun -m training.train_dalle --recipe demo ...`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipelines import ledger
from pipelines.publish.manifest import DatasetError
from training import cli, code_versions, finished, loop, remote, runtime
from training.alone import only_program
from training.checkpoints import checkpoint
from training.dalle.execution import Execution, Sharding
from training.dalle.flops import model_flops, peak_flops
from training.dalle.live_samples import LiveSamples
from training.dalle.precision import Precision
from training.dalle.trainer import DALLETrainer
from training.drawing.pictures import curves
from training.likelihood import nats, right_and_shuffled
from training.recipes import recipe as recipe_named
from training.splits import Split
from training.token_data import TokenData
from training.warm_start import WarmStart

_MEASURED = 512


def _at_once(trainer: DALLETrainer) -> int:
    """Rows of one pass: no more than fit when it trains."""
    return trainer.execution.micro_batch or trainer.rows


def validation_look(trainer: DALLETrainer, data: TokenData) -> loop.Look:
    """Nats of validation rows with their own and with other rows' captions, by the live weights."""
    table = data.stream(Split.VALIDATION).all_rows(_MEASURED)
    every = trainer.training.validate_every
    if len(set(table["caption"].to_pylist())) < 2:
        every = 0

    def measure(_done: int) -> Mapping[str, float]:
        right, shuffled = right_and_shuffled(trainer.model, data, table, _at_once(trainer))
        return {
            "validation_text": right.text,
            "validation_image": right.image,
            "validation_image_shuffled": shuffled.image,
        }

    return loop.Look(every, measure, score="validation_image")


def work_per_update(trainer: DALLETrainer) -> dict[str, float]:
    """Tokens of an update, and the share of the hardware's peak that a second of it takes."""
    rows = trainer.rows * trainer.runtime.world
    work = {"tokens_per_s": float(rows * trainer.model.length)}
    peak = peak_flops(trainer.runtime.device)
    if peak is not None and trainer.precision is not Precision.FP32:
        work["mfu"] = model_flops(trainer.model, rows) / (peak * trainer.runtime.world)
    return work


def measure(trainer: DALLETrainer, data: TokenData) -> dict[str, float | int | str]:
    """Nats on rows that were not trained on, as far as the corpus has such rows.

    By the weights as they are; every process takes part, for it may hold some of them alone.
    """
    summary: dict[str, float | int | str] = {}
    model, at_once = trainer.model, _at_once(trainer)
    validation = data.stream(Split.VALIDATION).all_rows(_MEASURED)
    if validation.num_rows:
        found = nats(model, data.plain_batch(validation), at_once)
        summary |= {"validation_nats_text": found.text, "validation_nats_image": found.image}
    held_out = data.stream(Split.HELD_OUT).all_rows(_MEASURED)
    if len(set(held_out["caption"].to_pylist())) > 1:
        right, shuffled = right_and_shuffled(model, data, held_out, at_once)
        summary |= {
            "held_out_nats": right.image,
            "held_out_nats_shuffled": shuffled.image,
            "held_out_gain": shuffled.image - right.image,
            "held_out_rows": right.rows,
        }
    return summary


def _verify(data: TokenData, process: runtime.Runtime) -> None:
    """Have every process read its share of the data; if one finds damage, all of them end."""
    if process.first:
        size = sum(file.bytes for file in data.manifest.token_files)
        typer.echo(f"comparing the hashes of {size / 1e9:.3g} GB of tokens with the manifest")
    damage: DatasetError | None = None
    try:
        data.verify_tokens(process.rank, process.world)
    except DatasetError as error:
        damage = error
    runtime.end_all(damage)


def train(
    recipe: Annotated[str, typer.Option(help="demo, small, cc3m_1b or paper_12b")],
    dataset: Annotated[
        str, typer.Option(help="a version token_dataset/v=..., or its manifest.json")
    ],
    output: Annotated[
        Path, typer.Option(parser=remote.local, help="directory of checkpoints and the result")
    ],
    updates: Annotated[
        int, typer.Option(min=0, help="end after so many updates; 0: the recipe's")
    ] = 0,
    precision: Annotated[
        Precision, typer.Option(help="of products; auto: bf16 on a GPU that has it, else fp32")
    ] = Precision.AUTO,
    recompute: Annotated[
        bool, typer.Option(help="recompute activations in the backward pass, to save memory")
    ] = False,
    shard: Annotated[
        Sharding,
        typer.Option(
            help="processes that split parameters and optimiser among them (FSDP2): those of a "
            "machine, or all; a machine's is then one copy of several"
        ),
    ] = Sharding.NONE,
    compress: Annotated[
        bool, typer.Option(help="exchange gradients between copies of the model by PowerSGD")
    ] = False,
    micro_batch: Annotated[
        int, typer.Option(min=0, help="rows of one pass in a process; 0: all at once")
    ] = 0,
    dvae: Annotated[
        Path | None,
        typer.Option(
            parser=remote.local, help="the dVAE of the codes, to draw samples while training"
        ),
    ] = None,
    samples_every: Annotated[
        int, typer.Option(min=0, help="with --dvae: updates between two sheets of samples")
    ] = 1000,
    start_from: Annotated[
        Path | None,
        typer.Option(
            parser=remote.local, help="a finished transformer whose weights to begin with"
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="compile each block (torch.compile)")
    ] = False,
) -> None:
    """Train the transformer, going on from the newest checkpoint in OUTPUT."""
    chosen = recipe_named(recipe)
    execution = Execution(
        Precision(precision), recompute, Sharding(shard), compress, micro_batch, compiled
    )
    training = chosen.dalle_training
    total = updates or training.updates
    data = TokenData(dataset, chosen)
    numbers = dataclasses.asdict(chosen)
    plain = [numbers[part] for part in ("text", "transformer", "dalle_training", "split")]
    tokens = DALLETrainer.tokens(data)
    start = WarmStart(start_from, data, tokens) if start_from else None
    began_with = start.sha256 if start else ""
    inputs = [data.manifest.version, *filter(None, [began_with])]
    fingerprint = ledger.fingerprint(code_versions.DALLE, [plain, total], inputs)
    with only_program(output):
        if finished.is_current(output, fingerprint):
            typer.echo(f"{output} is up to date")
            return
        process = runtime.start()
        _verify(data, process)
        trainer = DALLETrainer(data, process, fingerprint, execution, start=start)
        trained_on = {
            "dataset": data.manifest.version,
            "tokenizer_sha256": data.manifest.tokenizer_sha256,
            "dvae_sha256": data.manifest.dvae_sha256,
            "code_version": code_versions.DALLE,
            "warm_start": began_with,
        }
        if process.first and training.batch % process.world:
            rows = trainer.rows * process.world
            typer.echo(f"warning: {rows} rows an update, not {training.batch}", err=True)
        look = validation_look(trainer, data)
        if dvae is not None:
            samples = LiveSamples(trainer, data, dvae, output)
            look = dataclasses.replace(look, beside=samples.look(samples_every))
        loop.run(
            trainer,
            output,
            updates=total,
            report_every=min(training.report_every, max(1, total // 20)),
            checkpoint_seconds=training.checkpoint_seconds,
            per_update=work_per_update(trainer),
            look=look,
            keep=training.keep_checkpoints,
            trained_on=trained_on,
        )
        model = trainer.averaged()
        trainer.take_averages()
        measured = measure(trainer, data)
        runtime.leave()
        if model is not None:
            summary = measured | {
                "recipe": chosen.name,
                "updates": total,
                "parameters": sum(p.numel() for p in model.parameters()),
                **trained_on,
            }
            curves(
                output, {"nats per token": ["text", "image"], "gradient norm": ["gradient_norm"]}
            )
            config = {"transformer": chosen.transformer, "tokens": trainer.shape}
            finished.write(output, fingerprint, model, config, summary)
            checkpoint.clear(output / "checkpoints")


if __name__ == "__main__":
    cli.run(train)
