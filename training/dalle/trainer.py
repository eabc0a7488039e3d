"""One run of stage two: model, optimiser, averaged weights and data, and their update (B.2)."""

import itertools
import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from training.checkpoints.checkpoint import Checkpoint
from training.dalle import state as dalle_state
from training.dalle.execution import Execution
from training.dalle.memory import estimate, free_memory, lacking
from training.dalle.optimizer import ClippedAdamW, clip_by_norm, global_norm
from training.dalle.precision import (
    Precision,
    compile_blocks,
    recompute_blocks,
    run_blocks_in,
)
from training.distributed.data_parallel import copies_mesh, exchanging, replicate, shard
from training.distributed.power_sgd import PowerSGD, rank_for
from training.distributed.shards import local, whole
from training.ema import Ema, OffloadedEma
from training.losses import stream_loss
from training.models.transformer import Transformer
from training.runtime import Runtime, end_all, greatest
from training.schedules import Plateau, step_size
from training.skipped import Skipped
from training.splits import Split
from training.token_data import TokenBatch, TokenData
from training.warm_start import WarmStart


class DALLETrainer:
    """The state of a run and its update.

    Args:
        data: the published dataset and its recipe.
        runtime: this process.
        fingerprint: of recipe and data.
        execution: how to compute.
        free: bytes that this process may take; what is free on its device unless said.
        start: weights to begin with; random ones without.

    Raises:
        InputError: if the run needs more memory than that.
    """

    def __init__(
        self,
        data: TokenData,
        runtime: Runtime,
        fingerprint: str,
        execution: Execution | None = None,
        free: int | None = None,
        start: WarmStart | None = None,
    ):
        execution = execution or Execution()
        self.recipe = data.recipe
        self.training = self.recipe.dalle_training
        self.runtime, self.fingerprint, self.execution = runtime, fingerprint, execution
        self.precision = execution.precision.on(runtime.device)
        self.shape = self.tokens(data)
        self.rows = max(1, self.training.batch // runtime.world)
        config = self.recipe.transformer
        need = estimate(config, self.shape, self.rows, self.precision, execution, runtime)
        end_all(lacking(need, free_memory(runtime) if free is None else free, execution))
        torch.manual_seed(self.training.seed)
        self._shards = execution.shards(runtime)
        # Of a sharded model each process takes only its shards to its device.
        with runtime.device if self._shards == 1 else torch.device("cpu"):
            self.model = Transformer(self.recipe.transformer, **self.shape)
        if start is not None:
            start.into(self.model)
        if execution.compiled:
            compile_blocks(self.model.blocks)
        if execution.recompute:
            recompute_blocks(self.model.blocks)
        self.scales = run_blocks_in(
            self.precision, self.model.blocks, runtime.world, runtime.device
        )
        self.compression: PowerSGD | None = None
        self.wrapped = self._distribute()
        # Of a sharded model the shards: the model itself shows whole parameters between a forward
        # pass without a backward one and the next update.
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self._by_block: list[list[Tensor]] = [
            list(block.parameters()) for block in self.model.blocks
        ]
        in_blocks = set(itertools.chain(*self._by_block))
        self._beside_blocks = [p for p in self.parameters.values() if p not in in_blocks]
        offloaded = runtime.device.type == "cuda"
        self.ema = (OffloadedEma if offloaded else Ema)(self.model, self.training.ema)
        self.optimizer = ClippedAdamW(self.model, self.training.adamw)
        self.plateau = Plateau()
        self.skipped = Skipped()
        self.stream = data.stream(Split.TRAIN, runtime.rank, runtime.world, seed=self.training.seed)
        self._batches = data.training_batches(self.stream, self.rows)
        self.names: dict[Tensor, str] = {p: name for name, p in self.parameters.items()}

    @staticmethod
    def tokens(data: TokenData) -> dict[str, int]:
        """Vocabularies and lengths of the model for this dataset."""
        return {
            "text_vocabulary": data.encoder.vocabulary,
            "text_length": data.recipe.text.length,
            "image_vocabulary": data.manifest.image_vocabulary,
            "grid": data.manifest.grid,
        }

    def _distribute(self) -> nn.Module:
        if self.runtime.world == 1:
            return self.model
        if self._shards == 1:
            if self.execution.compress:
                self.compression = self._power_sgd(None)
            return replicate(self.model, self.compression)
        # fp16 keeps gains and biases in fp32, so there the blocks travel as they are stored.
        gathered = torch.bfloat16 if self.precision is Precision.BF16 else None
        mesh = copies_mesh(self.runtime.device, self._shards)
        compress = self.execution.compress and mesh["copies"].size() > 1
        shard(self.model, self.model.blocks, gathered, mesh["shards"] if compress else mesh)
        if compress:
            self.compression = self._power_sgd(mesh["copies"].get_group())
        return self.model

    def _power_sgd(self, group: dist.ProcessGroup | None) -> PowerSGD:
        matrices = {
            f"blocks.{name}": p for name, p in self.model.blocks.named_parameters() if p.ndim == 2
        }
        index: dict[Tensor, int] = {
            p: i for i, block in enumerate(self.model.blocks) for p in block.parameters()
        }
        scales = self.scales

        def divisor(parameter: Tensor) -> Tensor | None:
            at = index.get(parameter)
            return None if scales is None or at is None else scales.tensor[at]

        rank = rank_for(self.recipe.transformer.width, self._shards)
        return PowerSGD(matrices, rank, self.training.seed, divisor, group)

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; figures of all processes together."""
        training = self.training
        nats = self._backward(next(self._batches).to(self.runtime.device))
        overflowed = self._unscale()
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = float(global_norm(gradients))
        usable = math.isfinite(norm) and not overflowed
        rate = step_size(training, step, min(self.plateau.halvings, training.halvings))
        self.ema_release()
        if usable:
            self.optimizer.update(rate, clip_by_norm(gradients, norm, training.clip))
        self.skipped.count(usable)
        # Before its first turn the average is the weights themselves: a run may be shorter.
        if step < training.ema_every or (step + 1) % training.ema_every == 0:
            self.ema.update(step // training.ema_every)
        loss = float(stream_loss(nats[0], nats[1], training.text_weight))
        if training.decay == "plateau" and math.isfinite(loss):
            self.plateau.update(loss)
        figures = {"gradient_norm": norm, "step_size": rate, "skipped": float(not usable)}
        figures |= self.scales.reported() if self.scales else {}
        if self.compression is not None:
            figures["wire_bytes"] = float(self.compression.take_wire_bytes())
        reported = {name: torch.tensor(value) for name, value in figures.items()}
        return {"text": nats[0], "image": nats[1], **reported}

    def _backward(self, batch: TokenBatch) -> Tensor:
        """Gradients of a batch, added over its parts and all processes; nats of text and image."""
        self.optimizer.zero_grad()
        parts = _parts(batch, self.execution.micro_batch)
        nats = torch.zeros(2, device=self.runtime.device)
        for i, part in enumerate(parts):
            text = self.model.pad_text(part.text, part.lengths)
            with exchanging(self.wrapped, last=i + 1 == len(parts)):
                found = self.wrapped(text, part.codes)
                share = len(part.codes) / len(batch.codes) / self.runtime.world
                loss = stream_loss(found.text, found.image, self.training.text_weight)
                (loss * share).backward()
            nats += torch.stack((found.text, found.image)).detach() * share
        if self.compression is not None and self._shards > 1:
            for parameters in [*self._by_block, self._beside_blocks]:
                self.compression.exchange_shards(parameters)
        if self.runtime.world > 1:
            dist.all_reduce(nats)
        return nats

    def _unscale(self) -> bool:
        """Undo the blocks' scales and move them; whether any block overflowed in any process."""
        if self.scales is None:
            return False
        groups = [[local(p.grad) for p in block if p.grad is not None] for block in self._by_block]
        flags = self.scales.overflowed(groups).int().tolist()
        overflowed = [bool(flag) for flag in greatest(*flags)]
        if self.compression is None:
            self.scales.divide_(groups)
        self.scales.update(overflowed)
        return any(overflowed)

    def ema_release(self) -> None:
        """Let the optimiser change weights that the average may still be copying."""
        if isinstance(self.ema, OffloadedEma):
            self.ema.release()

    def save(self, done: int) -> Checkpoint:
        """State after `done` updates."""
        return dalle_state.taken(self, done)

    def load(self, found: Checkpoint) -> None:
        """Go on from `save` of any number of processes."""
        dalle_state.put_back(self, found)

    @torch.no_grad()
    def take_averages(self) -> None:
        """Make the averages the weights, at the end: they are then measured where they lie."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()  # what a look left whole would not change
        averages = self.ema.tensors()
        for name, live in self.parameters.items():
            local(live).copy_(averages[name])

    def averaged(self) -> Transformer | None:
        """The averaged weights as a model in host memory, in the first process alone.

        Every process must take part. It is for use before the next update: unless the averages
        are sharded or on a device, it holds them themselves.
        """
        averages = self.ema.tensors()
        weights: dict[str, Tensor] = {}
        for name, live in self.parameters.items():
            tensor = whole(live.detach(), averages[name])
            if self.runtime.first:
                weights[name] = tensor.cpu()
        if not self.runtime.first:
            return None
        with torch.device("meta"):
            model = Transformer(self.recipe.transformer, **self.shape)
        model.load_state_dict(weights, assign=True)
        return model.eval()


def _parts(batch: TokenBatch, rows: int) -> list[TokenBatch]:
    """A batch in parts of at most `rows` rows."""
    columns: Iterable[tuple[Tensor, ...]] = (
        column.split(rows or len(column)) for column in (batch.text, batch.lengths, batch.codes)
    )
    return [TokenBatch(*part) for part in zip(*columns, strict=True)]
