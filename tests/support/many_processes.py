"""Run a function in several processes that are joined by Gloo."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# ruff: noqa: TID253 - a helper of the training tests
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training.runtime import leave

# Imported once, in the server that the processes are forked from: torch alone takes seconds.
_IMPORTED = ["torch.distributed", "training.dalle.trainer", "tiny_training"]


def run_in(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, world, *arguments)` returns in each process."""
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with tempfile.TemporaryDirectory() as directory:
        work = (world, directory, function, arguments)
        mp.start_processes(_work, work, nprocs=world, start_method="forkserver")
        return [torch.load(Path(directory) / str(r), weights_only=True) for r in range(world)]


def _work(
    rank: int, world: int, directory: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/meet", rank=rank, world_size=world)
    try:
        torch.save(function(rank, world, *arguments), Path(directory) / str(rank))
    finally:
        leave()
