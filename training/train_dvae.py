"""Train stage one, the dVAE: `torchrun -m training.train_dvae --recipe demo --pairs DIR ...`."""

import dataclasses
import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pipelines import ledger
from pipelines.storage import list_files
from training import checkpoint, cli, dvae_report, finished, loop, runtime
from training.checkpoint import Checkpoint
from training.codebook_init import initialise_codebook
from training.config import DVAEConfig, DVAETraining, Recipe
from training.ema import Ema
from training.images import plain_batch, training_batch
from training.losses import categorical_kl_to_uniform, logit_laplace_nll
from training.models.dvae import DVAE
from training.recipes import recipe as recipe_named
from training.row_stream import Position, RowStream
from training.runtime import Runtime
from training.schedules import cosine
from training.splits import Split

CODE_VERSION = "1"
_CODEBOOK_IMAGES = 400


class DVAETrainer:
    """The state of a run and its update.

    Args:
        recipe: every number.
        files: Parquet files of `deduped_pairs`.
        runtime: this process.
        fingerprint: of recipe and data.
    """

    def __init__(self, recipe: Recipe, files: list[str], runtime: Runtime, fingerprint: str):
        self.config: DVAEConfig = recipe.dvae
        self.training: DVAETraining = recipe.dvae_training
        self.runtime, self.fingerprint = runtime, fingerprint
        self.stream = RowStream(
            files,
            ["image"],
            Split.TRAIN,
            recipe.split,
            seed=self.training.seed,
            rank=runtime.rank,
            world=runtime.world,
            window_rows=4096,
        )
        torch.manual_seed(self.training.seed)
        self.model = DVAE(self.config)
        if self.training.codebook_warmup:
            # k-means needs as many points as it makes codes.
            least = -(-self.config.vocabulary // self.config.grid**2)
            table = self.stream.all_rows(_CODEBOOK_IMAGES, least)
            images = plain_batch(table, self.config.image_size)
            initialise_codebook(self.model, images)
        self.model.to(runtime.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(self.model, self.training.ema)
        self.wrapped = DistributedDataParallel(self.model) if runtime.world > 1 else self.model
        adamw = self.training.adamw
        rates = ((self.model.encoder, self.training.encoder_rate), (self.model.decoder, 1.0))
        self.optimizer = torch.optim.AdamW(
            [{"params": list(part.parameters()), "rate": rate} for part, rate in rates],
            betas=(adamw.beta1, adamw.beta2),
            eps=adamw.epsilon,
            weight_decay=adamw.weight_decay,
            fused=True,
        )
        self._batches = self.stream.batches(max(1, self.training.batch // runtime.world))
        self._names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; nats per pixel and channel of the loss and its two parts."""
        training, grid = self.training, self.config.grid
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(training.step_size, step) * group["rate"]
        table = next(self._batches)
        images = training_batch(table, self.stream.position.epoch, self.config, training)
        images = images.to(self.runtime.device)
        gumbel = self._gumbel(step, len(images))
        relaxed = self.wrapped(images, cosine(training.temperature, step), gumbel)
        scale = 3 * self.config.image_size**2
        nll = logit_laplace_nll(relaxed.maps, images, training.least_log_scale).mean() / scale
        kl = categorical_kl_to_uniform(relaxed.logits).mean()
        loss = nll + cosine(training.kl_weight, step) * kl / scale
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        self.optimizer.step()
        self.ema.update(step)
        return {"loss": loss, "nll": nll, "kl_per_code": kl / grid**2, "gradient_norm": norm}

    def _gumbel(self, step: int, rows: int) -> Tensor:
        """Noise [rows, V, h, w] of this update in this process.

        It depends on nothing that came before, so that every process of a resumed run draws what
        it would have drawn without the interruption.
        """
        device, grid = self.runtime.device, self.config.grid
        key = f"{self.training.seed} {self.runtime.rank} {step}"
        draw = torch.Generator(device).manual_seed(random.Random(key).getrandbits(63))
        shape = (rows, self.config.vocabulary, grid, grid)
        return -torch.empty(shape, device=device).exponential_(generator=draw).log()

    def save(self, done: int) -> Checkpoint:
        """State after `done` updates."""
        tensors: dict[str, dict[str, Tensor]] = {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "ema": self.ema.tensors(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer, self._names),
        }
        state = {"position": dataclasses.asdict(self.stream.position)}
        return Checkpoint(done, self.fingerprint, tensors, state)

    def load(self, found: Checkpoint) -> None:
        """Go on from `save`."""
        self.model.load_state_dict(dict(found.tensors["model"]))
        self.ema.load(found.tensors["ema"])
        checkpoint.load_optimizer(self.optimizer, self._names, found.tensors["optimizer"])
        self.stream.position = Position(**found.state["position"])

    def averaged(self) -> DVAE:
        """A copy of the model with the averaged weights."""
        model = DVAE(self.config)
        model.load_state_dict(self.ema.tensors())
        return model.eval()


def train(
    recipe: Annotated[str, typer.Option(help="demo, small, cc3m_1b or paper_12b")],
    pairs: Annotated[
        list[Path], typer.Option(help="directory deduped_pairs/batch=...; repeatable")
    ],
    output: Annotated[Path, typer.Option(help="directory of checkpoints and the result")],
    updates: Annotated[int, typer.Option(help="end after so many updates; 0: the recipe's")] = 0,
) -> None:
    """Train the dVAE, going on from the newest checkpoint in OUTPUT."""
    chosen = recipe_named(recipe)
    total = updates or chosen.dvae_training.updates
    contents = [ledger.require_success(str(directory)).content for directory in pairs]
    numbers = dataclasses.asdict(chosen)
    plain = [numbers[part] for part in ("dvae", "dvae_training", "split")]
    fingerprint = ledger.fingerprint(CODE_VERSION, [plain, total], contents)
    if finished.is_current(output, fingerprint):
        typer.echo(f"{output} is up to date")
        return
    process = runtime.start()
    files = [f for directory in pairs for f in list_files(str(directory), ".parquet")]
    trainer = DVAETrainer(chosen, files, process, fingerprint)
    training = chosen.dvae_training
    loop.run(
        trainer,
        output,
        updates=total,
        report_every=min(training.report_every, max(1, total // 20)),
        checkpoint_seconds=training.checkpoint_seconds,
    )
    if process.first:
        model = trainer.averaged()
        facts = {"recipe": chosen.name, "updates": total}
        summary = dvae_report.write(model, output, files, chosen.split) | facts
        finished.write(output, fingerprint, model, chosen.dvae, summary)
        checkpoint.clear(output / "checkpoints")


if __name__ == "__main__":
    cli.run(train)
