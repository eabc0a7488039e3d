"""What a process of stage two needs of memory, known before any of it is taken."""

import dataclasses

import torch

from training import host_memory
from training.config import TransformerConfig
from training.dalle.execution import Execution, Sharding
from training.dalle.precision import Precision
from training.errors import InputError
from training.models.transformer import Transformer
from training.runtime import Runtime, local_processes

_FP32 = 4
# Bytes that a layer (attention and MLP) keeps for its backward pass, for each token and unit of
# width; counted by tests/training/test_memory.py. Recomputing keeps the blocks' inputs alone.
KEPT = {Precision.FP32: 48, Precision.BF16: 36, Precision.FP16_PER_BLOCK: 32}
# The result of GELU in fp32, which the CPU computes again (training/models/feed_forward.py).
_GELU = 16
KEPT_RECOMPUTING = {Precision.FP32: 8, Precision.BF16: 8, Precision.FP16_PER_BLOCK: 4}
_GIB = 2**30
_MORE_SHARDS = {
    Sharding.NONE: "--shard=machine with several processes",
    Sharding.MACHINE: "--shard all",
    Sharding.ALL: "more processes",
}


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes on one process's device, by what they are for, and of host memory beside a GPU.

    Attributes:
        parameters: with what is gathered of them at a time, if they are sharded.
        gradients: fp32.
        moments: both of AdamW.
        averages: of the weights; a GPU's are in host memory.
        errors: buffers of PowerSGD.
        activations: kept for the backward pass of the rows of one pass; roughly.
        host: all that this machine's processes take of its memory, if they compute on GPUs.
    """

    parameters: int
    gradients: int
    moments: int
    averages: int
    errors: int
    activations: int
    host: int = 0

    @property
    def on_device(self) -> dict[str, int]:
        """All parts but the host's."""
        return {name: n for name, n in dataclasses.asdict(self).items() if name != "host"}

    @property
    def total(self) -> int:
        """What the device must hold."""
        return sum(self.on_device.values())


def estimate(
    config: TransformerConfig,
    tokens: dict[str, int],
    rows: int,
    precision: Precision,
    execution: Execution,
    runtime: Runtime,
) -> Need:
    """Count what a run takes; nothing is allocated.

    Args:
        config: of the transformer.
        tokens: its vocabularies and lengths.
        rows: of an update in this process.
        precision: as resolved for the device.
        execution: how the run computes.
        runtime: this process.
    """
    with torch.device("meta"):
        model = Transformer(config, **tokens)
    all_parameters = _FP32 * sum(p.numel() for p in model.parameters())
    blocks = _FP32 * sum(p.numel() for p in model.blocks.parameters())
    shards = execution.shards(runtime)
    held = -(-all_parameters // shards)
    # The block that computes, the next one on its way, and all the time what is in no block.
    gathered = 2 * blocks // len(model.blocks) + all_parameters - blocks if shards > 1 else 0
    in_pass = min(execution.micro_batch or rows, rows)
    cell = in_pass * model.length * config.width
    keeps_gelu = precision is Precision.FP32 and runtime.device.type != "cpu"
    layer = (KEPT[precision] + _GELU * keeps_gelu) * cell
    kept = KEPT_RECOMPUTING[precision] * cell if execution.recompute else layer
    # The layer that is being computed holds its activations and their gradients besides.
    activations = config.depth * kept + 2 * layer
    if precision is Precision.BF16 and not execution.recompute and shards == 1:
        # Autocast keeps the weights that it has cast.
        activations += blocks // 2
    return Need(
        parameters=held + gathered,
        gradients=held,
        moments=2 * held,
        averages=0 if runtime.device.type == "cuda" else held,
        errors=blocks // shards if execution.compress and runtime.world > shards else 0,
        # After the backward pass, clipping the variance takes as much as the gradients.
        activations=max(activations, held),
        host=_host(all_parameters, held) if runtime.device.type == "cuda" else 0,
    )


def _host(whole: int, held: int) -> int:
    """Host memory of all GPUs' processes on this machine: at the start, and while they train."""
    local = local_processes()
    # The averages, and the pinned copy through which the weights come to them.
    averages = 2 * held * local
    # Of a checkpoint, moments are the most that is written at once: by all, or if nothing is
    # sharded by one. Of sharded averages one process gathers a whole model.
    passing = 2 * held if held == whole else max(2 * held * local, whole)
    # To shard a model every process builds all of it before it gives its device what that holds.
    return max(whole * local, averages + passing)


def free_memory(runtime: Runtime) -> int:
    """Bytes that this process may count on: its share of what the device has left."""
    local = local_processes()
    if runtime.device.type == "cuda":
        sharing = -(-local // torch.cuda.device_count())
        return int(torch.cuda.mem_get_info(runtime.device)[0]) // sharing
    return host_memory.available() // local


def lacking(
    need: Need, free: int, execution: Execution, host_free: int | None = None
) -> InputError | None:
    """What to say, with the figures and what would help, where memory is too little.

    Args:
        need: of the run.
        free: bytes that the device has for this process.
        execution: how the run computes.
        host_free: bytes of the machine's own memory; what is free there unless said.
    """
    host_free = host_memory.available() if host_free is None else host_free
    sharded = execution.sharding is not Sharding.NONE
    if need.host > host_free:
        first = ", and at first the whole model" if sharded else ""
        return InputError(
            f"the {local_processes()} processes of this machine need about "
            f"{need.host / _GIB:.3g} GiB of its own memory (each keeps averaged weights and a copy "
            f"of them there{first}), and {host_free / _GIB:.3g} GiB are free; take fewer processes "
            f"a machine{'' if sharded else ', --shard=machine'}, or a smaller recipe"
        )
    if need.total <= free:
        return None
    parts = ", ".join(f"{name} {n / _GIB:.3g}" for name, n in need.on_device.items() if n)
    remedies = ["a smaller --micro-batch"]
    if not execution.recompute:
        remedies.append("--recompute")
    remedies.append(_MORE_SHARDS[execution.sharding])
    return InputError(
        f"a process needs about {need.total / _GIB:.3g} GiB ({parts}), and its device has "
        f"{free / _GIB:.3g} GiB free for it; take {', '.join(remedies)}, or a smaller recipe"
    )
