"""Where each process goes on in the data, also when their number has changed."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from training.row_stream import Position
from training.runtime import Runtime

_KEY = "position"


def own_position(position: Position) -> dict[str, Tensor]:
    """This process's position, for its own part of a checkpoint."""
    return {_KEY: torch.tensor(dataclasses.astuple(position))}


def position_for(
    first: Position, world: int, own: Mapping[str, Tensor], runtime: Runtime
) -> Position:
    """Where this process goes on.

    With as many processes as before, exactly where it stood. Otherwise the rows that all
    processes took of the window, and maybe of those behind it, are shared out anew: every row is
    still given once in an epoch.

    Args:
        first: position of the first process.
        world: how many processes there were.
        own: what this process stored, if it was there.
        runtime: this process now.
    """
    if runtime.world == world and _KEY in own:
        return Position(*own[_KEY].tolist())
    # Rows r, r + world, ... were process 0's, with r as its first row of the window.
    taken = -first.before % world + first.row * world
    before = -taken % runtime.world
    mine = (runtime.rank - before) % runtime.world
    row = taken // runtime.world + int(mine < taken % runtime.world)
    return Position(first.epoch, first.window, row, before)
