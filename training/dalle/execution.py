"""How a run of stage two computes; what it computes is the recipe's."""

from dataclasses import dataclass
from enum import StrEnum

from training.dalle.precision import Precision
from training.errors import InputError
from training.runtime import Runtime, greatest, local_processes


class Sharding(StrEnum):
    """Which processes share one copy of parameters, moments and averages among them (FSDP2)."""

    NONE = "none"
    MACHINE = "machine"
    ALL = "all"


@dataclass(frozen=True)
class Execution:
    """A resumed run may differ here from what it was before.

    Attributes:
        precision: of the products inside the blocks.
        recompute: keep each block's input alone, and compute the rest again when going backward.
        sharding: each process holds a copy, or those of a machine hold one, or all of them.
        compress: exchange gradients between copies by PowerSGD.
        micro_batch: rows of one forward and backward pass in a process; 0: all at once.
        compiled: compile each block (torch.compile).
    """

    precision: Precision = Precision.AUTO
    recompute: bool = False
    sharding: Sharding = Sharding.NONE
    compress: bool = False
    micro_batch: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.sharding is Sharding.ALL and self.compress:
            raise InputError(
                "compression is of what copies of the model exchange, and --shard all leaves one; "
                "take --shard=machine"
            )

    def shards(self, runtime: Runtime) -> int:
        """Processes that hold one copy together.

        Raises:
            InputError: if machines have different numbers of processes.
        """
        if self.sharding is Sharding.NONE:
            return 1
        if self.sharding is Sharding.ALL:
            return runtime.world
        here = local_processes()
        # All processes must see it, or those that do not would wait for the others.
        if greatest(here, -here) != [here, -here] or runtime.world % here:
            raise InputError(
                f"{runtime.world} processes are not {here} on each machine, as on this one; "
                "--shard=machine needs as many on each"
            )
        return here
