"""Processes, devices and signals: what every training program starts with."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from training.errors import USAGE

# Exit status of a process that ends because another one did.
PEER_LOST = os.EX_TEMPFAIL


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
    """Join the process group that torchrun describes.

    Raises:
        ConnectionError: if there is no way to the other processes.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    device = torch.device("cpu")
    if gpus:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        torch.cuda.set_device(device)
    if world > 1:
        # NCCL refuses two processes on one GPU, Gloo does not.
        own_gpu = 0 < local_processes() <= gpus
        try:
            dist.init_process_group("nccl" if own_gpu else "gloo")
            barrier()  # the first exchange is what connects
        except RuntimeError as error:
            raise ConnectionError(
                f"process {rank} of {world} cannot join the others: {first_line(error)}"
            ) from error
    return Runtime(rank, world, device)


def leave() -> None:
    """Leave the group, after the last exchange of all; nothing is exchanged from then on.

    A Python that ends without it may be aborted: Gloo's threads go on, and need it.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def end(status: int) -> NoReturn:
    """End this program, though others may still wait for it in an exchange."""
    sys.stdout.flush()
    sys.stderr.flush()
    if dist.is_initialized():
        os._exit(status)  # to leave the group might take until the others have
    sys.exit(status)


def local_processes() -> int:
    """How many of the processes are on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def place() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def barrier() -> None:
    """Wait for all processes."""
    greatest(0)


def greatest(*values: int) -> list[int]:
    """The greatest value of all processes, one by one."""
    if place()[1] == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def end_all(problem: Exception | None) -> None:
    """End every process if one found a problem, and let the first that did say so.

    Raises:
        Exception: the problem, in the first process that has one.
        SystemExit: in all others, with the status that such a problem has; the launcher takes that
            of whoever ends first.
    """
    rank, world = place()
    speaker = world - greatest(0 if problem is None else world - rank)[0]
    if speaker < world:
        leave()
        if speaker == rank and problem is not None:
            raise problem
        sys.exit(USAGE)


def lost_a_peer(error: RuntimeError) -> bool:
    """Whether NCCL or Gloo say so that another process is gone."""
    # Gloo has no error class of its own, but names its source file.
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def first_line(error: Exception) -> str:
    """What an error says, without the stack of C++ that follows."""
    return " ".join((str(error).splitlines() or [""])[0].split())


def random_state() -> dict[str, torch.Tensor]:
    """State of this process's random generators, for its own part of a checkpoint."""
    state = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random/cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, torch.Tensor]) -> None:
    """Inverse of `random_state`; what is missing stays as it is."""
    if "random/cpu" in state:
        torch.set_rng_state(state["random/cpu"])
    if "random/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random/cuda"])


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
        due = checkpoint_due and self._runtime.first
        received, wanted = greatest(self._received, int(due))
        return received, bool(wanted)
