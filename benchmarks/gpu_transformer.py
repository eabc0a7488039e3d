"""The transformer on the device at hand, for `python -m benchmarks.gpu_marks`.

The training step of `cc3m_1b` in bf16 and in fp16 with a scale for each block, losses of a short
training and what costs most in it; 512 candidates of one caption beside the least time that a step
takes, by the weights alone and by all that it reads and multiplies: whether they were drawn from
CUDA graphs, and how many codes another split into batches leaves as they are; equality and cost of
each attention pattern.
"""

import functools
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from benchmarks.step_profile import busiest
from training.config import TransformerConfig
from training.dalle.flops import model_flops, peak_flops
from training.dalle.optimizer import ClippedAdamW, clip_by_norm, global_norm
from training.dalle.precision import Precision, compile_blocks, run_blocks_in
from training.losses import stream_loss
from training.models.attention import Pattern, attention, dense_attention, split
from training.models.attention_masks import KINDS
from training.models.decoding import slots
from training.models.transformer import AttentionBlock, Transformer
from training.recipes import cc3m_1b

PARTS = ("update", "generation", "attention")


@dataclass(frozen=True)
class Size:
    """Of what is measured; `tokens` are the transformer's arguments."""

    config: TransformerConfig
    tokens: dict[str, int]
    rows: int
    candidates: int
    updates: int
    compiled: bool


def size_of(tiny: bool) -> Size:
    """The recipe `cc3m_1b`, or something that any device does in seconds."""
    if tiny:
        tokens = {"text_vocabulary": 32, "text_length": 4, "image_vocabulary": 16, "grid": 4}
        return Size(TransformerConfig(3, 2, 16, 3), tokens, 2, 4, 4, compiled=False)
    tokens = {"text_vocabulary": 16_384, "text_length": 256, "image_vocabulary": 8192, "grid": 32}
    return Size(cc3m_1b().transformer, tokens, 16, 512, 12, compiled=True)


def lines(device: torch.device, size: Size, rate: float, part: str) -> Iterator[str]:
    """What was measured, a line each.

    Args:
        device: to measure.
        size: of the model.
        rate: FLOP/s of a bf16 product there.
        part: of `PARTS`, what to measure.
    """
    if part == "attention":
        for kind in KINDS:
            yield _pattern(kind, device, size)
    elif part == "update":
        # What matters most comes first: the time may end.
        for precision, compiled in (
            *([(Precision.BF16, True)] if size.compiled else []),
            (Precision.FP16_PER_BLOCK, False),
            (Precision.BF16, False),
        ):
            yield from _training(precision, device, size, rate, compiled=compiled)
            gc.collect()  # blocks, whose forward passes hold them, are cycles
            if device.type == "cuda":
                torch.cuda.empty_cache()
    else:
        yield from _generation(device, size, rate)


def _model(device: torch.device, size: Size, dtype: torch.dtype = torch.float32) -> Transformer:
    """Random weights, drawn where they will be: on the host that takes minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Transformer(size.config, **size.tokens)
    finally:
        torch.set_default_dtype(before)


def _pattern(kind: str, device: torch.device, size: Size) -> str:
    """Error beside the dense mask, forward and backward, and cost of one layer's attention."""
    pattern = Pattern(kind, size.tokens["text_length"] + 1, size.tokens["grid"], 11)
    errors = []
    for dtype in (torch.float32, torch.bfloat16):
        heads = torch.randn(2, pattern.length, 3, 2, 64, device=device, dtype=dtype)
        given, exact = heads.requires_grad_(), heads.detach().float().requires_grad_()
        found, wanted = attention(given, pattern), dense_attention(*split(exact), pattern)
        weight = torch.randn_like(wanted)
        (one,) = torch.autograd.grad(found, given, weight.to(dtype))
        (other,) = torch.autograd.grad(wanted, exact, weight)
        errors.append(max(_error(found, wanted), _error(one, other)))
    shape = size.rows, pattern.length, 3, size.config.heads, size.config.head_width
    heads = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
    # As a block gives it: heads side by side.
    weight = torch.randn_like(heads[:, :, 0]).transpose(1, 2)
    held = torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    spent, most = _cost(
        lambda: torch.autograd.grad(attention(heads, pattern), heads, weight), device
    )
    return (
        f"attention, {kind:12} {1e3 * spent:9.2f} ms a step, {most - held:6.2f} GiB; "
        f"error beside dense {errors[0]:.1e} in fp32, {errors[1]:.1e} in bf16"
    )


def _error(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().float(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())


def _cost(work: Callable[[], object], device: torch.device, rounds: int = 5) -> tuple[float, float]:
    """Seconds, and GiB that are taken at most meanwhile (0 on a CPU)."""
    cuda = device.type == "cuda"
    for _ in range(2):
        work()
    _wait(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    _wait(device)
    spent = (time.perf_counter() - start) / rounds
    return spent, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _training(
    precision: Precision, device: torch.device, size: Size, rate: float, *, compiled: bool
) -> Iterator[str]:
    """Updates on one batch: time, share of the peak, and whether the loss falls."""
    torch.manual_seed(0)
    model = _model(device, size)
    torch.set_float32_matmul_precision("highest")  # the mode alone decides
    if compiled:
        compile_blocks(model.blocks)  # as `train_dalle --compile` does
    scales = run_blocks_in(precision, model.blocks, 1, device)
    optimizer = ClippedAdamW(model, cc3m_1b().dalle_training.adamw)
    text = torch.randint(size.tokens["text_vocabulary"], (size.rows, model.text_length))
    codes = torch.randint(size.tokens["image_vocabulary"], (size.rows, model.grid**2))
    inputs = text.to(device), codes.to(device)
    losses: list[Tensor] = []
    used: list[bool] = []

    def update() -> None:
        optimizer.zero_grad()
        nats = model(*inputs)
        loss = stream_loss(nats.text, nats.image, 1 / 8)
        loss.backward()
        overflowed = [False]
        if scales is not None:
            blocks = [[p.grad for p in b.parameters() if p.grad is not None] for b in model.blocks]
            overflowed = scales.overflowed(blocks).tolist()
            scales.divide_(blocks)
            scales.update(overflowed)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(global_norm(gradients))
        used.append(math.isfinite(norm) and not any(overflowed))
        if used[-1]:
            optimizer.update(1e-4, clip_by_norm(gradients, norm, 4.0))
        losses.append(loss.detach())

    spent, taken = _cost(update, device, size.updates)
    done = model_flops(model, size.rows) / spent
    peak = peak_flops(device)
    mfu = f"{done / peak:.1%} MFU, " if peak else ""
    name = f"{precision}{', compiled' if compiled else ''}"
    speed = size.rows * model.length / spent
    yield (
        f"update, {name:24} {1e3 * spent:9.2f} ms, {speed:.0f} tokens/s, "
        f"{mfu}{done / rate:.1%} of a bf16 product, {taken:.1f} GiB; "
        f"{used.count(False)} of {len(used)} skipped, "
        f"loss {float(losses[0]):.3f} to {float(losses[-1]):.3f}"
    )
    if compiled == size.compiled and precision is Precision.BF16:
        yield from busiest(update, device)


def _generation(device: torch.device, size: Size, rate: float) -> Iterator[str]:
    """Candidates of one caption beside the least time that a code of each takes.

    In the precision that `training.sample` draws in.
    """
    try:
        from training.drawing.sampling import sample_codes
    except ModuleNotFoundError as missing:
        yield f"candidates: not measured: {missing}"
        return
    counters.clear()
    bf16 = Precision.AUTO.on(device) is Precision.BF16
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = _model(device, size, dtype).eval()
    text = torch.zeros(1, model.text_length, dtype=torch.long, device=device)
    draw = functools.partial(sample_codes, model, text, size.candidates)
    list(draw())  # compiles
    _wait(device)
    start = time.perf_counter()
    whole = list(draw())
    _wait(device)
    spent = time.perf_counter() - start
    bandwidth, codes = _bandwidth(device), model.grid**2
    weights, caches, flop = step_work(model, size.candidates)
    least = max((weights + caches) / bandwidth, flop / rate)
    yield (
        f"{size.candidates} candidates {spent:9.2f} s, "
        f"{codes * weights / bandwidth / spent:.1%} of the weight-read limit, "
        f"{codes * least / spent:.1%} of what reading weights and caches or the products allow"
    )
    half = max(1, len(whole[0].codes) // 2)
    one, other = (torch.cat([part.codes for part in drawn]) for drawn in (whole, draw(most=half)))
    equal, codes = int((one == other).sum()), one.numel()
    yield f"in batches of {half}: {equal} of {codes} codes are equal, {equal / codes:.2%}"
    programs, skipped = counters["stats"]["unique_graphs"], counters["inductor"]["cudagraph_skips"]
    yield f"{programs} programs compiled, CUDA graphs skipped: {skipped}"


def step_work(model: Transformer, streams: int) -> tuple[int, int, int]:
    """Of a code of each of one caption's streams: bytes of weights and of caches, FLOP of products.

    With the weights alone; attention is no product of a step.
    """
    layers = (*model.blocks.modules(), model.image_head)
    products = [m for m in layers if isinstance(m, nn.Linear)]
    weights = sum(p.nbytes for p in (*model.blocks.parameters(), *model.image_head.parameters()))
    patterns = [b.pattern for b in model.blocks if isinstance(b, AttentionBlock)]
    places = sum(streams * slots(p) + p.text_length for p in patterns)
    caches = 2 * places * model.config.width * model.image_head.weight.element_size()
    return weights, caches, 2 * streams * sum(m.weight.numel() for m in products)


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that a sum of a large tensor reads."""
    numbers = torch.ones(2**30 if device.type == "cuda" else 2**22, device=device)
    return numbers.nbytes / _cost(numbers.sum, device)[0]
