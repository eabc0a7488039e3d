"""Both stages on the device at hand, beside what it can do: `python -m benchmarks.gpu_marks`.

Needs torch (2.11 or later) and NumPy; the candidates also psutil and tokenizers, and are left out
with a line where they are missing. `benchmarks.gpu_transformer` has the second stage. Prints
images/s of encoding and of a training step at the paper's size in bf16, each with the share of
the rate that a large matrix product reaches in the same run, and how many codes bf16 and fp32
agree on. Each part has a process of its own, for a fault of CUDA ends a process: the others are
measured all the same, and the status is 1. `--only` measures some of it; with `--tiny` a small
model runs on any device, to see that the program works.
"""

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks import gpu_transformer, older_torch
from training.config import DVAEConfig
from training.image_tokenizer import Precision, codes_program
from training.losses import categorical_kl_to_uniform, logit_laplace_nll
from training.models.dvae import DVAE

# Forward multiply-adds of encoder and decoder for a 256 px image (FlopCounterMode), times two.
_ENCODER_FLOP, _DECODER_FLOP = 272.3e9, 308.0e9
_TINY = DVAEConfig(image_size=32, hidden=16, vocabulary=64, decoder_init=16)
_ROUNDS = 10
_PARTS = (*gpu_transformer.PARTS, "encode", "dvae")
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class Rate:
    """What was measured: images a second, and FLOP of an image (0 where that is not known)."""

    name: str
    images: float
    flop: float


def device_of(tiny: bool) -> torch.device:
    """The GPU; with `tiny` also a CPU.

    Raises:
        SystemExit: without a GPU.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if tiny:
        return torch.device("cpu")
    sys.exit("error: torch sees no GPU; run this on a machine with one, or with --tiny")


def seconds(work: Callable[[], object], device: torch.device, rounds: int = _ROUNDS) -> float:
    """Mean seconds of `work` on the device, after it ran twice."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        work()
    wait()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - start) / rounds


def matrix_rate(device: torch.device, side: int) -> float:
    """FLOP a second of a bf16 product of square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device)


def encoding(model: DVAE, images: Tensor, compiled: bool) -> list[Rate]:
    """Codes of a batch in fp32 and bf16, as the encode stage computes them."""
    found = []
    for precision in _PRECISIONS:
        codes = _codes(model, precision)
        if compiled:
            codes = torch.compile(codes, dynamic=False)
        with torch.inference_mode():
            spent = seconds(functools.partial(codes, images), images.device)
        found.append(Rate(f"encode, {precision}", len(images) / spent, _ENCODER_FLOP))
    return found


def _codes(model: DVAE, precision: Precision) -> Callable[[Tensor], Tensor]:
    """The encode stage's program; without TF32 where `load_image_tokenizer` forbids it."""
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return codes_program(model, precision)


def agreement(model: DVAE, images: Tensor) -> float:
    """Share of codes that bf16 and fp32 agree on; random weights have more close calls."""
    with torch.inference_mode():
        plain, half = (_codes(model, p)(images).int() for p in _PRECISIONS)
        return float((plain == half).float().mean())


def training(model: DVAE, images: Tensor, compiled: bool) -> list[Rate]:
    """Forward, backward and AdamW of a batch in bf16."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    forward = torch.compile(model, dynamic=False) if compiled else model
    config, scale = model.config, 3 * model.config.image_size**2
    gumbel = torch.zeros(len(images), config.vocabulary, config.grid, config.grid).to(images.device)
    temperature = torch.tensor(1.0, device=images.device)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            relaxed = forward(images, temperature, gumbel)
        loss = logit_laplace_nll(relaxed.maps, images).mean()
        loss = (loss + categorical_kl_to_uniform(relaxed.logits).mean()) / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    rate = len(images) / seconds(step, images.device)
    # Backward does twice the forward's work.
    return [Rate("training step, bf16", rate, 3 * (_ENCODER_FLOP + _DECODER_FLOP))]


def dvae_lines(device: torch.device, tiny: bool, peak: float, part: str) -> Iterator[str]:
    """What was measured of the first stage, a line each; `peak` is FLOP/s of a bf16 product."""
    config = _TINY if tiny else DVAEConfig()
    model = DVAE(config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    draw = np.random.default_rng(0)
    sides = (4 if tiny else 32, config.image_size, config.image_size, 3)
    images = torch.from_numpy(draw.integers(0, 256, sides, np.uint8)).permute(0, 3, 1, 2).to(device)
    if part == "encode":
        same = agreement(model, images)
        yield f"bf16 and fp32 agree on {same:.2%} of the codes (random weights)"
    for rate in (encoding if part == "encode" else training)(model, images, not tiny):
        share = "" if tiny else f" {rate.images * rate.flop / peak:6.1%} of that rate"
        yield f"{rate.name:24} {rate.images:9.1f} images/s{share}"


def measure(part: str, device: torch.device, tiny: bool) -> None:
    """Print one part, in this process."""
    if missing := older_torch.fill_in():
        print(f"this torch has no {' and no '.join(missing)}: done in another way", file=sys.stderr)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    peak = matrix_rate(device, 128 if tiny else 8192)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    name = f"{name}, torch {torch.__version__}"
    print(f"{name}: {peak / 1e12:.3f} TFLOP/s in a bf16 product", flush=True)
    if part in gpu_transformer.PARTS:
        lines = gpu_transformer.lines(device, gpu_transformer.size_of(tiny), peak, part)
    else:
        lines = dvae_lines(device, tiny, peak, part)
    for line in lines:
        print(line, flush=True)


def measure_apart(parts: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Print each part from a process of its own, as it comes; those that failed."""
    failed = []
    for part in parts:
        command = [sys.executable, "-m", "benchmarks.gpu_marks", *flags, "--only", part]
        if status := subprocess.run(command).returncode:
            print(f"{part}: failed with status {status}", flush=True)
            failed.append(part)
    return failed


def main() -> None:
    """Print everything, or what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_marks", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a small model, on any device")
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS, default=_PARTS, help="measure these alone"
    )
    options = parser.parse_args()
    parts = [part for part in _PARTS if part in options.only]
    device = device_of(options.tiny)
    if len(parts) == 1:
        measure(parts[0], device, options.tiny)
    elif measure_apart(parts, ["--tiny"] if options.tiny else []):
        sys.exit(1)


if __name__ == "__main__":
    main()
