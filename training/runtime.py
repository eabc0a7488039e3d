"""Processes, devices and signals: what every training program starts with."""

import os
import signal
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Runtime:
    """This process among its peers, as torchrun started it; alone without torchrun."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0


def start() -> Runtime:
    """Join the process group that torchrun describes."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    device = torch.device("cpu")
    if gpus:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        torch.cuda.set_device(device)
    if world > 1:
        # NCCL refuses two processes on one GPU, Gloo does not.
        own_gpu = 0 < int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus
        dist.init_process_group("nccl" if own_gpu else "gloo")
    return Runtime(rank, world, device)


class StopSignal:
    """Remembers SIGINT and SIGTERM, so that a run ends between two updates."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._received = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._received = number

    def agree(self, checkpoint_due: bool) -> tuple[int, bool]:
        """The signal any process received (0: none), and whether the first wants a checkpoint."""
        if self._runtime.world == 1:
            return self._received, checkpoint_due
        due = checkpoint_due and self._runtime.first
        flags = torch.tensor([self._received, int(due)], device=self._runtime.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        received, wanted = flags.tolist()
        return int(received), bool(wanted)
