"""One run of the contrastive model's training: model, optimiser, data, and their update."""

import dataclasses
import random
from collections.abc import Iterator

import pyarrow as pa
import torch
import torch.distributed.nn.functional as gathering
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from training.checkpoints.checkpoint import Checkpoint
from training.checkpoints.optimizer_state import load_optimizer, optimizer_tensors
from training.checkpoints.resume_position import own_position, position_for
from training.config import ContrastiveTraining, Cosine, Recipe
from training.contrastive.images import normalised, training_pictures
from training.contrastive.text import OwnText
from training.models.contrastive import Contrastive, Embedded, contrastive_loss
from training.row_stream import Position, RowStream
from training.runtime import Runtime
from training.schedules import cosine
from training.skipped import Skipped
from training.splits import Split
from training.text import TextEncoder

# A pair is told from others.
_LEAST = 2


class ContrastiveTrainer:
    """The state of a run and its update.

    Args:
        recipe: every number.
        files: Parquet files of `deduped_pairs`.
        tokenizer: content of `tokenizer.json`.
        runtime: this process.
        fingerprint: of recipe and data.

    Raises:
        InputError: if there are fewer than two pairs.

    Attributes:
        training: the recipe's, with a batch of all pairs where the corpus has no more.
    """

    def __init__(
        self, recipe: Recipe, files: list[str], tokenizer: str, runtime: Runtime, fingerprint: str
    ):
        self.recipe = recipe
        self.runtime, self.fingerprint = runtime, fingerprint
        self.text = OwnText(TextEncoder(tokenizer, recipe.text.length))
        wanted = recipe.contrastive_training.batch
        there = RowStream(files, [], Split.TRAIN, recipe.split).all_rows(wanted, _LEAST).num_rows
        self.training: ContrastiveTraining = dataclasses.replace(
            recipe.contrastive_training, batch=there
        )
        self.stream = RowStream(
            files,
            ["image"],
            Split.TRAIN,
            recipe.split,
            seed=self.training.seed,
            rank=runtime.rank,
            world=runtime.world,
        )
        torch.manual_seed(self.training.seed)
        self.model = Contrastive(recipe.contrastive, self.text.vocabulary, self.text.context)
        self.model.to(runtime.device)
        self.wrapped = DistributedDataParallel(self.model) if runtime.world > 1 else self.model
        adamw = self.training.adamw
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, adamw.weight_decay),
            betas=(adamw.beta1, adamw.beta2),
            eps=adamw.epsilon,
            fused=True,
        )
        self.skipped = Skipped()
        self._rows = max(1, self.training.batch // runtime.world)
        self._batches = self._draw()
        self._names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; nats per pair."""
        training, device = self.training, self.runtime.device
        for group in self.optimizer.param_groups:
            group["lr"] = _step_size(training, step)
        images, ids = next(self._batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embedded = Embedded(*self.wrapped(normalised(images.to(device)), ids.to(device)))
        everyones = self._gathered(embedded)
        first = self.runtime.rank * self._rows
        loss = contrastive_loss(embedded, everyones.captions, everyones.images, first)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        usable = bool(norm.isfinite())
        if usable:
            self.optimizer.step()
        self.skipped.count(usable)
        self.model.limit_scale()
        return {"loss": loss, "scale": embedded.scale, "gradient_norm": norm}

    def _gathered(self, own: Embedded) -> Embedded:
        """The whole batch's vectors; gradients flow back to the process that made them."""
        if self.runtime.world == 1:
            return own
        images, captions = (
            torch.cat(gathering.all_gather(x.contiguous())) for x in (own.images, own.captions)
        )
        return Embedded(images, captions, own.scale)

    def _draw(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches: uint8 [B, 3, S, S] and ids [B, context], drawn from (epoch, uid)."""
        size = self.recipe.contrastive.image_size
        for table in self.stream.batches(self._rows):
            yield (
                training_pictures(table, size, self.training),
                self.text.framed(self._texts(table)),
            )

    def _texts(self, table: pa.Table) -> list[list[int]]:
        columns = (table[name].to_pylist() for name in ("epoch", "uid", "caption"))
        return [
            self.text.encoder.encode_with_dropout(
                caption,
                self.recipe.text.dropout,
                random.Random(f"{self.training.seed} {epoch} {uid.hex()}"),
            )
            for epoch, uid, caption in zip(*columns, strict=True)
        ]

    def save(self, done: int) -> Checkpoint:
        """State after `done` updates; the position in the data is each process's own."""
        tensors = {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "optimizer": optimizer_tensors(self.optimizer, self._names),
        }
        position = self.stream.position
        state = {"position": dataclasses.asdict(position), "world": self.runtime.world}
        return Checkpoint(done, self.fingerprint, tensors, state, own_position(position))

    def load(self, found: Checkpoint) -> None:
        """Go on from `save`, in this or another number of processes."""
        self.model.load_state_dict(dict(found.tensors["model"]))
        load_optimizer(self.optimizer, self._names, found)
        stored, world = Position(**found.state["position"]), found.state["world"]
        self.stream.position = position_for(stored, world, found.own, self.runtime)


def _step_size(training: ContrastiveTraining, step: int) -> float:
    """Linear over the warm-up, then a cosine to zero (arXiv 2103.00020, section 2.5)."""
    warm = training.step_size * (step + 1) / max(training.warmup, 1)
    falling = Cosine(training.step_size, 0.0, training.updates - training.warmup)
    return min(warm, cosine(falling, step - training.warmup))


def _parameter_groups(model: Contrastive, weight_decay: float) -> list[dict[str, object]]:
    """Weights that decay, and gains, biases and the temperature, which do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
