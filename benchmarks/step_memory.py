"""Memory of a training step: `python -m benchmarks.step_memory MODEL` prints GiB.

The greatest resident memory of a process that does two steps, less what it held before it made
the model: weights, gradients, activations and scratch, no optimiser. Each model has a process of
its own, since a process never gives back its greatest memory.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.marks import Mark

MODELS = ("ours", "x-transformers", "DALLE-pytorch", "minDALL-E")
_KIB_PER_GIB = 2**20


def _step_of(name: str) -> Callable[[], None]:
    import torch

    from benchmarks import training_marks, training_peers
    from benchmarks.training_peers import BATCH, GRID, TEXT, VOCABULARY

    if name == "ours":
        return training_marks.ours()[1]
    if name == "x-transformers":
        peer = training_peers.x_transformers()
        rows = torch.randint(2 * VOCABULARY, (BATCH, TEXT + GRID**2))
        return training_peers.step_of(peer, lambda: peer(rows))
    text, codes = training_marks.tokens()
    if name == "minDALL-E":
        peer, loss = training_peers.mindalle()
        return training_peers.step_of(peer, lambda: loss(text, codes))
    peer = training_peers.dalle_pytorch()
    return training_peers.step_of(peer, lambda: peer(text, codes, return_loss=True))


def _peak() -> float:
    # Not ru_maxrss, which a process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / _KIB_PER_GIB


def taken(name: str) -> float:
    """GiB that two steps of a model take in a new process."""
    command = [sys.executable, "-m", "benchmarks.step_memory", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def memory_beside_x_transformers() -> Mark:
    """The table's step."""
    return _beside("x-transformers", "memory of a step")


def memory_beside_dalle_pytorch() -> Mark:
    """The table's step with row, column and row layers."""
    return _beside("DALLE-pytorch", "memory of a step ")


def memory_beside_mindalle() -> Mark:
    """The table's step, where MINDALLE names a checkout."""
    return _beside("minDALL-E", "memory of a step  ")


def _beside(peer: str, title: str) -> Mark:
    return Mark(title, taken("ours"), taken(peer), peer, 1.0, unit="G")


MARKS = (
    memory_beside_x_transformers,
    memory_beside_dalle_pytorch,
    *([memory_beside_mindalle] if "MINDALLE" in os.environ else []),
)


def main() -> None:
    """Measure in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_memory", description=__doc__)
    parser.add_argument("model", choices=MODELS)
    model = parser.parse_args().model
    import torch

    # Libraries and their threads are no part of a step.
    import x_transformers  # noqa: F401

    from benchmarks import training_marks, training_peers  # noqa: F401
    from training.models import transformer  # noqa: F401

    torch.set_num_threads(1)
    warm = torch.randn(64, 64, requires_grad=True)
    (warm @ warm).sum().backward()
    before = _peak()
    step = _step_of(model)
    for _ in range(2):
        step()
    print(_peak() - before)


if __name__ == "__main__":
    main()
