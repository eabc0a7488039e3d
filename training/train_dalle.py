"""Train stage two, the transformer: `torchrun -m training.train_dalle --recipe demo ...`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pipelines import ledger
from training import checkpoint, cli, finished, loop, runtime
from training.checkpoint import Checkpoint
from training.config import Recipe
from training.ema import Ema
from training.likelihood import nats, right_and_shuffled
from training.losses import cross_entropy, stream_loss
from training.models.transformer import Transformer
from training.pictures import curves
from training.recipes import recipe as recipe_named
from training.row_stream import Position
from training.runtime import Runtime
from training.schedules import Plateau, step_size
from training.splits import Split
from training.tokens import TokenData

CODE_VERSION = "1"
_MEASURED = 512


class DALLETrainer:
    """The state of a run and its update.

    Args:
        data: the published dataset and its recipe.
        runtime: this process.
        fingerprint: of recipe and data.
    """

    def __init__(self, data: TokenData, runtime: Runtime, fingerprint: str):
        self.recipe: Recipe = data.recipe
        self.training = self.recipe.dalle_training
        self.runtime, self.fingerprint = runtime, fingerprint
        torch.manual_seed(self.training.seed)
        self.model = Transformer(self.recipe.transformer, **self.tokens(data))
        self.model.to(runtime.device)
        self.ema = Ema(self.model, self.training.ema)
        self.wrapped = DistributedDataParallel(self.model) if runtime.world > 1 else self.model
        adamw = self.training.adamw
        decayed, plain = _parameter_groups(self.model)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": adamw.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            betas=(adamw.beta1, adamw.beta2),
            eps=adamw.epsilon,
            fused=True,
        )
        self.plateau = Plateau()
        self.stream = data.stream(Split.TRAIN, runtime.rank, runtime.world, seed=self.training.seed)
        rows = max(1, self.training.batch // runtime.world)
        self._batches = data.training_batches(self.stream, rows)
        self._names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}

    @staticmethod
    def tokens(data: TokenData) -> dict[str, int]:
        """Vocabularies and lengths of the model for this dataset."""
        return {
            "text_vocabulary": data.encoder.vocabulary,
            "text_length": data.recipe.text.length,
            "image_vocabulary": data.manifest.image_vocabulary,
            "grid": data.manifest.grid,
        }

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; nats per token of text and image."""
        training = self.training
        size = step_size(training, step, min(self.plateau.halvings, training.halvings))
        for group in self.optimizer.param_groups:
            group["lr"] = size
        batch = next(self._batches).to(self.runtime.device)
        text = self.model.pad_text(batch.text, batch.lengths)
        logits = self.wrapped(text, batch.codes)
        text_nats = cross_entropy(logits.text, text)
        image_nats = cross_entropy(logits.image, batch.codes)
        loss = stream_loss(text_nats, image_nats, training.text_weight)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        self.optimizer.step()
        if (step + 1) % training.ema_every == 0:
            self.ema.update(step // training.ema_every)
        if training.decay == "plateau":
            self.plateau.update(float(loss))
        return {"text": text_nats, "image": image_nats, "gradient_norm": norm}

    def save(self, done: int) -> Checkpoint:
        """State after `done` updates."""
        tensors: dict[str, dict[str, Tensor]] = {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "ema": self.ema.tensors(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer, self._names),
        }
        state = {
            "position": dataclasses.asdict(self.stream.position),
            "plateau": self.plateau.state(),
        }
        return Checkpoint(done, self.fingerprint, tensors, state)

    def load(self, found: Checkpoint) -> None:
        """Go on from `save`."""
        self.model.load_state_dict(dict(found.tensors["model"]))
        self.ema.load(found.tensors["ema"])
        checkpoint.load_optimizer(self.optimizer, self._names, found.tensors["optimizer"])
        self.stream.position = Position(**found.state["position"])
        self.plateau.load(found.state["plateau"])

    def averaged(self) -> Transformer:
        """The model with its averaged weights, for evaluation."""
        self.model.load_state_dict(self.ema.tensors())
        return self.model.eval()


def _parameter_groups(model: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that decay, and gains, biases and embeddings, which do not (appendix B.2)."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and "embedding" not in name and "position" not in name
        (decayed if matrix else plain).append(parameter)
    return decayed, plain


def measure(model: Transformer, data: TokenData) -> dict[str, float | int | str]:
    """Nats on rows that were not trained on, as far as the corpus has such rows."""
    summary: dict[str, float | int | str] = {}
    validation = data.stream(Split.VALIDATION).all_rows(_MEASURED)
    if validation.num_rows:
        found = nats(model, data.plain_batch(validation))
        summary |= {"validation_nats_text": found.text, "validation_nats_image": found.image}
    held_out = data.stream(Split.HELD_OUT).all_rows(_MEASURED)
    if len(set(held_out["caption"].to_pylist())) > 1:
        right, shuffled = right_and_shuffled(model, data, held_out)
        summary |= {
            "held_out_nats": right.image,
            "held_out_nats_shuffled": shuffled.image,
            "held_out_gain": shuffled.image - right.image,
            "held_out_rows": right.rows,
        }
    return summary


def train(
    recipe: Annotated[str, typer.Option(help="demo, small, cc3m_1b or paper_12b")],
    dataset: Annotated[str, typer.Option(help="a version token_dataset/v=...")],
    output: Annotated[Path, typer.Option(help="directory of checkpoints and the result")],
    updates: Annotated[int, typer.Option(help="end after so many updates; 0: the recipe's")] = 0,
) -> None:
    """Train the transformer, going on from the newest checkpoint in OUTPUT."""
    chosen = recipe_named(recipe)
    total = updates or chosen.dalle_training.updates
    data = TokenData(dataset, chosen)
    numbers = dataclasses.asdict(chosen)
    plain = [numbers[part] for part in ("text", "transformer", "dalle_training", "split")]
    fingerprint = ledger.fingerprint(CODE_VERSION, [plain, total], [data.manifest.version])
    if finished.is_current(output, fingerprint):
        typer.echo(f"{output} is up to date")
        return
    process = runtime.start()
    trainer = DALLETrainer(data, process, fingerprint)
    training = chosen.dalle_training
    loop.run(
        trainer,
        output,
        updates=total,
        report_every=min(training.report_every, max(1, total // 20)),
        checkpoint_seconds=training.checkpoint_seconds,
    )
    if process.first:
        model = trainer.averaged()
        summary = measure(model, data) | {
            "recipe": chosen.name,
            "updates": total,
            "parameters": sum(p.numel() for p in model.parameters()),
            "dataset": data.manifest.version,
        }
        curves(output, {"nats per token": ["text", "image"], "gradient norm": ["gradient_norm"]})
        config = {"transformer": chosen.transformer, "tokens": trainer.tokens(data)}
        finished.write(output, fingerprint, model, config, summary)
        checkpoint.clear(output / "checkpoints")


if __name__ == "__main__":
    cli.run(train)
