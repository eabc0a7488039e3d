"""One run of stage one: model, optimiser, data and noise, and their update."""

import dataclasses
import random

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from training.checkpoints.checkpoint import Checkpoint
from training.checkpoints.optimizer_state import load_optimizer, optimizer_tensors
from training.checkpoints.resume_position import own_position, position_for
from training.config import DVAEConfig, DVAETraining, Recipe
from training.dvae.codebook import usage
from training.dvae.codebook_init import initialise_codebook
from training.dvae.images import plain_batch
from training.dvae.loss_scale import MixedPrecision
from training.dvae.picture_batches import PictureBatches
from training.ema import Ema
from training.losses import categorical_kl_to_uniform, logit_laplace_nll
from training.models.dvae import DVAE
from training.row_stream import Position, RowStream
from training.runtime import Runtime
from training.schedules import cosine
from training.skipped import Skipped
from training.splits import Split

_CODEBOOK_IMAGES = 400


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a run computes; what it computes is the recipe's.

    Attributes:
        compiled: compile the training pass (torch.compile).
        recompute: keep less for the backward pass, and compute it again.
    """

    compiled: bool = False
    recompute: bool = False


class DVAETrainer:
    """The state of a run and its update.

    Args:
        recipe: every number.
        files: Parquet files of `deduped_pairs`.
        runtime: this process.
        fingerprint: of recipe and data.
        execution: how to compute.
    """

    def __init__(
        self,
        recipe: Recipe,
        files: list[str],
        runtime: Runtime,
        fingerprint: str,
        execution: Execution = Execution(),
    ):
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
        rows = max(1, self.training.batch // runtime.world)
        self.batches = PictureBatches(self.stream, rows, self.config, self.training)
        self.model = self._first_model()
        self.model.to(runtime.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if execution.recompute:
            self.model.recompute_activations()
        if execution.compiled:
            self.model.compile()
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
        self.skipped = Skipped()
        self.mixed = MixedPrecision(self.training.precision, runtime.device)
        self._counts = torch.zeros(self.config.vocabulary, dtype=torch.long, device=runtime.device)
        self._names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}

    def _first_model(self) -> DVAE:
        torch.manual_seed(self.training.seed)
        model = DVAE(self.config)
        if self.training.codebook_warmup:
            # k-means needs as many points as it makes codes.
            least = -(-self.config.vocabulary // self.config.grid**2)
            table = self.stream.all_rows(_CODEBOOK_IMAGES, least)
            initialise_codebook(model, plain_batch(table, self.config.image_size))
        return model

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; nats per pixel and channel of the loss and its parts, and what it used."""
        training, grid = self.training, self.config.grid
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(training.step_size, step) * group["rate"]
        images = next(self.batches).to(self.runtime.device, non_blocking=True)
        gumbel = self._gumbel(step, len(images))
        device = self.runtime.device
        temperature = torch.tensor(cosine(training.temperature, step), device=device)
        kl_weight = torch.tensor(cosine(training.kl_weight, step), device=device)
        with self.mixed.autocast():
            relaxed = self.wrapped(images, temperature, gumbel)
        scale = 3 * self.config.image_size**2
        nll = logit_laplace_nll(relaxed.maps, images, training.least_log_scale).mean() / scale
        kl = categorical_kl_to_uniform(relaxed.logits).mean()
        loss = nll + kl_weight * kl / scale
        norm = self.mixed.step(loss, self.optimizer, training.clip)
        self.skipped.count(bool(norm.isfinite()))
        self.ema.update(step)
        codes = relaxed.logits.detach().argmax(1).flatten()
        self._counts += torch.bincount(codes, minlength=len(self._counts))
        return {
            "loss": loss,
            "nll": nll,
            "kl_per_code": kl / grid**2,
            "gradient_norm": norm,
            "temperature": temperature,
            "kl_weight": kl_weight,
            **self.mixed.reported(),
        }

    def codebook_use(self) -> dict[str, float]:
        """Use by training pictures since the last call, over all processes; each must call it."""
        counts = self._counts.clone()
        self._counts.zero_()
        if self.runtime.world > 1:
            dist.all_reduce(counts)
        spread, used = usage(counts)
        return {"perplexity": spread, "dead_codes": float(self.config.vocabulary - used)}

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
        """State after `done` updates; the position in the data is each process's own."""
        tensors = {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "ema": self.ema.tensors(),
            "optimizer": optimizer_tensors(self.optimizer, self._names),
        }
        position = self.batches.position
        state = {
            "position": dataclasses.asdict(position),
            "world": self.runtime.world,
            "loss_scale": self.mixed.state(),
        }
        return Checkpoint(done, self.fingerprint, tensors, state, own_position(position))

    def load(self, found: Checkpoint) -> None:
        """Go on from `save`, in this or another number of processes."""
        self.model.load_state_dict(dict(found.tensors["model"]))
        self.ema.load(found.tensors["ema"])
        load_optimizer(self.optimizer, self._names, found)
        stored, world = Position(**found.state["position"]), found.state["world"]
        self.batches.seek(position_for(stored, world, found.own, self.runtime))
        self.mixed.load(found.state["loss_scale"])

    def averaged(self) -> DVAE:
        """The model with the averaged weights, which it shares with the trainer."""
        with torch.device("meta"):
            model = DVAE(self.config)
        model.load_state_dict(self.ema.tensors(), assign=True)
        return model.eval()
