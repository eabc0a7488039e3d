"""How a run of stage two computes; what it computes is the recipe's."""

from dataclasses import dataclass

from training.dalle.precision import Precision
from training.errors import InputError


@dataclass(frozen=True)
class Execution:
    """A resumed run may differ here from what it was before.

    Attributes:
        precision: of the products inside the blocks.
        recompute: keep each block's input alone, and compute the rest again when going backward.
        shard: split parameters, moments and averages among the processes (FSDP2).
        compress: exchange gradients by PowerSGD.
        micro_batch: rows of one forward and backward pass in a process; 0: all at once.
        compiled: compile each block (torch.compile).
    """

    precision: Precision = Precision.AUTO
    recompute: bool = False
    shard: bool = False
    compress: bool = False
    micro_batch: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.shard and self.compress:
            raise InputError("compression works on whole gradients; leave out sharding")
