"""Named tensors in safetensors files, each file with the rows that one process held."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.distributed.shards import Rows

# In the file's header: {name: [first row, rows of the whole]} for tensors that are in parts.
_ROWS = "rows"


def write(path: Path, tensors: Mapping[str, Tensor | Rows]) -> None:
    """Write one file; parts without a row are left out."""
    held: dict[str, Tensor] = {}
    rows: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Rows):
            rows[name] = tensor.start, tensor.total
            tensor = tensor.part
            if not len(tensor):
                continue
        held[name] = tensor.detach().cpu().contiguous()
    save_file(held, path, metadata={_ROWS: json.dumps(rows)})


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of several files as one mapping; read when asked for, row by row if wanted.

    Args:
        files: what the processes of one run wrote for one group.
    """

    def __init__(self, files: Sequence[Path]):
        # Of each tensor: file, first row and whether it is a part.
        self._places: dict[str, list[tuple[Path, int, bool]]] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                rows = json.loads((file.metadata() or {}).get(_ROWS, "{}"))
                for name in file.keys():  # noqa: SIM118 - a reader, not a mapping
                    start, _total = rows.get(name, (0, 0))
                    self._places.setdefault(name, []).append((path, start, name in rows))
        for places in self._places.values():
            places.sort(key=lambda place: place[1])

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        return self._read(name, 0, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def into(self, name: str, target: Tensor | Rows) -> None:
        """Copy a tensor, or the rows that `target` holds of it, into `target`."""
        if isinstance(target, Rows):
            rows = len(target.part)
            if rows:
                target.part.copy_(self._read(name, target.start, target.start + rows))
        else:
            target.copy_(self._read(name, 0, None))

    def _read(self, name: str, start: int, stop: int | None) -> Tensor:
        found: list[Tensor] = []
        for path, first, part in self._places[name]:
            with safe_open(path, framework="pt") as file:
                if not part and stop is None:
                    return file.get_tensor(name)
                piece = file.get_slice(name)
                count = piece.get_shape()[0]
                low = max(start - first, 0)
                high = count if stop is None else min(stop - first, count)
                if low < high:
                    found.append(piece[low:high])
        return torch.cat(found)
