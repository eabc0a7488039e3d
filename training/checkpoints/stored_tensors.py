"""Named tensors in safetensors files, each file with the parts that one process held."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from training.checkpoints import atomic_directory
from training.distributed.shards import Part

# In the file's header: {name: [dimension, start]} for tensors that are in parts.
_PARTS = "parts"


def write(path: Path, tensors: Mapping[str, Tensor | Part]) -> None:
    """Write one file; empty parts are left out."""
    held: dict[str, Tensor] = {}
    parts: dict[str, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Part):
            parts[name] = tensor.dimension, tensor.start
            tensor = tensor.held
            if not tensor.numel():
                continue
        held[name] = tensor.detach().cpu().contiguous()
    atomic_directory.write_tensors(path, held, {_PARTS: json.dumps(parts)})


@dataclass(frozen=True)
class _Box:
    """Where a part lies in the whole tensor: the range of each dimension."""

    ranges: tuple[range, ...]

    @classmethod
    def of(cls, shape: Sequence[int], dimension: int, start: int) -> "_Box":
        ranges = [range(n) for n in shape]
        if ranges:
            ranges[dimension] = range(start, start + shape[dimension])
        return cls(tuple(ranges))

    def common(self, other: "_Box") -> "_Box":
        both = zip(self.ranges, other.ranges, strict=True)
        return _Box(tuple(range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in both))

    def __bool__(self) -> bool:
        return all(self.ranges)

    def inside(self, outer: "_Box") -> tuple[slice, ...]:
        """The slices of `outer`'s tensor that hold this box."""
        both = zip(self.ranges, outer.ranges, strict=True)
        return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in both)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of several files as one mapping; read when asked for, in parts if wanted.

    Args:
        files: what the processes of one run wrote for one group.
    """

    def __init__(self, files: Sequence[Path]):
        self._places: dict[str, list[tuple[Path, _Box]]] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                parts = json.loads((file.metadata() or {}).get(_PARTS, "{}"))
                for name in file.keys():  # noqa: SIM118 - a reader, not a mapping
                    shape = file.get_slice(name).get_shape()
                    box = _Box.of(shape, *parts.get(name, (0, 0)))
                    self._places.setdefault(name, []).append((path, box))

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        places = self._places[name]
        path, _ = places[0]
        with safe_open(path, framework="pt") as file:
            first = file.get_tensor(name) if len(places) == 1 else file.get_slice(name)[:0]
        if len(places) == 1:
            return first
        sides = zip(*(box.ranges for _, box in places), strict=True)
        found = first.new_empty([max(side.stop for side in ranges) for ranges in sides])
        self.into(name, found)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def into(self, name: str, target: Tensor | Part) -> None:
        """Copy a tensor, or the part that `target` holds of it, into `target`.

        Raises:
            ValueError: if the files do not hold all of that.
        """
        part = target if isinstance(target, Part) else Part(target, 0, 0)
        wanted = _Box.of(part.held.shape, part.dimension, part.start)
        missing = part.held.numel()
        for path, box in self._places[name]:
            common = box.common(wanted)
            if not common:
                continue
            with safe_open(path, framework="pt") as file:
                # A number has no slices.
                piece = (
                    file.get_slice(name)[common.inside(box)]
                    if box.ranges
                    else file.get_tensor(name)
                )
            part.held[common.inside(wanted)].copy_(piece)
            missing -= piece.numel()
        if missing:
            raise ValueError(f"{name}: {missing} of its numbers are not stored")
