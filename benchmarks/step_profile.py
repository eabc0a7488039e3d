"""Where the time of a training step goes on the CPU: `python -m benchmarks.step_profile`.

The step is that of `make bench`: the table's configuration in fp32 on one thread.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

_ROUNDS = 5


def busiest(step: Callable[[], object], device: torch.device, shown: int = 10) -> Iterator[str]:
    """The operations, on a GPU the kernels, that take most of a step's time, a line each."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    step()
    with profile(activities=activities) as profiled:
        for _ in range(_ROUNDS):
            step()
    events = profiled.key_averages()
    spent = kernels(events) if cuda else {str(e.key): e.self_cpu_time_total for e in events}
    total = sum(spent.values())
    for name in sorted(spent, key=spent.__getitem__, reverse=True)[:shown]:
        yield f"  {spent[name] / total:6.1%} {spent[name] / _ROUNDS / 1e3:9.2f} ms  {name[:80]}"


def kernels(events: Iterable[FunctionEventAvg]) -> dict[str, float]:
    """Microseconds of each kernel by name.

    The operations that started them and the annotations around them have the same time again.
    """
    return {
        str(event.key): event.self_device_time_total
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    }


def main() -> None:
    """Print the table's step."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.step_profile", description=__doc__
    ).parse_args()
    from benchmarks.training_marks import ours

    torch.set_num_threads(1)
    _, step = ours()
    for line in busiest(step, torch.device("cpu")):
        print(line)


if __name__ == "__main__":
    main()
