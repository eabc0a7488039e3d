"""Draw pictures for captions: image codes one position at a time, with cached keys and values.

Every candidate has noise of its own, drawn from (seed, caption, candidate): how the work is split
into batches decides nothing.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from training.errors import InputError
from training.models.decoding import Decoder, bytes_per_caption, bytes_per_stream
from training.models.dvae import DVAE
from training.models.transformer import Transformer
from training.text import TextEncoder

# Positions whose noise is drawn at once: one call a candidate, not one a candidate and position.
_NOISE_BLOCK = 16
_MOST_PROGRAMS = 64
_MOST_STREAMS = {"cuda": 1024, "cpu": 64}
Progress = Callable[[int], object]


@dataclass(frozen=True)
class SamplingOptions:
    """How a code is chosen; the defaults are the paper's (section 2.6).

    Attributes:
        temperature: of the softmax.
        top_k: only so many of the likeliest codes; 0 for all.
        top_p: only the likeliest codes that together have this probability; 1 for all.
        guidance: logits are extrapolated from those without a caption by this factor; 1 for none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be positive, got {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be at least 1, or 0 for all codes; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance must be a finite number, got {self.guidance}")

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [B, V] of the distribution that is sampled; -inf where a code is ruled out."""
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p < 1:
            ordered, codes = logits.sort(dim=-1, descending=True)
            shares = ordered.softmax(-1)
            # A code stays if those before it have not reached top_p yet; the first always does.
            beyond = shares.cumsum(-1) - shares >= self.top_p
            beyond[:, 0] = False
            logits = logits.masked_fill(beyond.scatter(1, codes, beyond), -math.inf)
        return logits


@dataclass(frozen=True)
class Prompt:
    """Codes of a given picture that every candidate keeps.

    Attributes:
        codes: int64 [G, G].
        kept: bool [G, G]; what is False is drawn.
    """

    codes: Tensor
    kept: Tensor


def keep_outside(grid: int, row: int, column: int = 0) -> Tensor:
    """What to keep, bool [G, G], if all from (row, column) to the bottom-right is drawn anew.

    Raises:
        InputError: if that keeps nothing, everything, or lies outside the grid.
    """
    if not (0 <= row < grid and 0 <= column < grid) or row == column == 0:
        raise InputError(
            f"a prompt keeps some of {grid} rows and columns of codes and completes the rest from "
            f"(row, column) on; got ({row}, {column})"
        )
    kept = torch.ones(grid, grid, dtype=torch.bool)
    kept[row:, column:] = False
    return kept


@torch.inference_mode()
def sample_codes(
    model: Transformer,
    text: Tensor,
    candidates: int,
    *,
    seed: int = 0,
    options: SamplingOptions | None = None,
    prompt: Prompt | None = None,
    most: int | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[Tensor]:
    """Sample codes for captions, as many at a time as memory allows.

    Args:
        model: in evaluation mode.
        text: padded ids [A, T] (`Transformer.pad_text`).
        candidates: pictures for each caption, at least 1.
        seed: with the caption and the number of the candidate, the seed of its noise.
        options: how a code is chosen.
        prompt: what is given of every picture.
        most: streams at a time; None is what memory allows.
        progress: told after every position how many codes were drawn since the last call.

    Yields:
        int64 codes [n, G*G] in raster order; all candidates of the first caption come first.
    """
    options = options or SamplingOptions()
    most = most or streams_in_memory(model, options, candidates)
    for part, first, count in _parts(text, candidates, most):
        streams = [(row, first + i) for row in part for i in range(count)]
        noise = _Noise(model, streams, seed)
        yield _sample(model, part, count, noise, options, prompt, progress)


def _parts(text: Tensor, candidates: int, most: int) -> Iterator[tuple[Tensor, int, int]]:
    """Captions, the first candidate and how many: the batches of a whole work."""
    if candidates >= most:
        for row in text.split(1):
            for first in range(0, candidates, most):
                yield row, first, min(most, candidates - first)
    else:
        for rows in text.split(most // candidates):
            yield rows, 0, candidates


def streams_in_memory(model: Transformer, options: SamplingOptions, candidates: int) -> int:
    """How many streams half of the free memory holds.

    The candidates of a caption share its text.
    """
    device = model.image_head.weight.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    each = bytes_per_stream(model) + 4 * _NOISE_BLOCK * model.image_vocabulary
    each += -(-bytes_per_caption(model) // candidates)
    each *= 1 if options.guidance == 1 else 2
    return max(1, min(free // (2 * each), _MOST_STREAMS.get(device.type, 64)))


def _sample(
    model: Transformer,
    text: Tensor,
    candidates: int,
    noise: "_Noise",
    options: SamplingOptions,
    prompt: Prompt | None,
    progress: Progress,
) -> Tensor:
    guided = options.guidance != 1
    count, positions = len(text) * candidates, model.grid**2
    given = text
    if guided:
        nothing = text.new_zeros(text.shape)
        given = torch.cat((text, model.pad_text(nothing, nothing[:, 0])))
    decoder = Decoder(model, len(given), candidates)
    step: Callable[[Tensor, Tensor], Tensor] = decoder
    if text.is_cuda:
        # One program for each number of captions and candidates.
        step = torch.compile(  # type: ignore[call-overload]
            decoder, fullgraph=True, recompile_limit=_MOST_PROGRAMS
        )
    codes = text.new_empty(count, positions)
    known = _known(prompt, text.device)
    logits = decoder.begin(given)
    for i in range(positions):
        if guided:
            plain = logits[count:]
            logits = plain + options.guidance * (logits[:count] - plain)
        # Gumbel-max: the same distribution as multinomial, without a sort or a synchronisation.
        codes[:, i] = (options.scores(logits) + noise.at(i)).argmax(-1)
        if i in known:
            codes[:, i] = known[i]
        progress(count)
        if i + 1 < positions:
            last = codes[:, i].repeat(2) if guided else codes[:, i]
            logits = step(last, torch.tensor([i], device=text.device))
    return codes


def _known(prompt: Prompt | None, device: torch.device) -> dict[int, Tensor]:
    if prompt is None:
        return {}
    codes = prompt.codes.to(device).flatten()
    return {int(i): codes[i] for i in prompt.kept.flatten().nonzero()}


class _Noise:
    """Gumbel noise of every stream from a generator of its own."""

    def __init__(self, model: Transformer, streams: Sequence[tuple[Tensor, int]], seed: int):
        device = model.image_head.weight.device
        self._generators = [
            torch.Generator(device).manual_seed(_seed(seed, row, candidate))
            for row, candidate in streams
        ]
        shape = (len(streams), _NOISE_BLOCK, model.image_vocabulary)
        self._drawn = torch.empty(shape, device=device)

    def at(self, position: int) -> Tensor:
        """Noise of one position [B, V]; positions are asked for in order."""
        if position % _NOISE_BLOCK == 0:
            for row, generator in zip(self._drawn, self._generators, strict=True):
                row.exponential_(generator=generator)
            self._drawn.log_().neg_()
        return self._drawn[:, position % _NOISE_BLOCK]


def _seed(seed: int, text: Tensor, candidate: int) -> int:
    key = f"{seed} {candidate} {text.tolist()}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:7], "little")


def draw_codes(
    model: Transformer,
    encoder: TextEncoder,
    captions: Sequence[str],
    candidates: int,
    *,
    seed: int = 0,
    options: SamplingOptions | None = None,
    prompt: Prompt | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[Tensor]:
    """`sample_codes` of captions.

    Raises:
        InputError: without captions or candidates.
    """
    if not captions or candidates < 1:
        raise InputError(f"{len(captions)} captions x {candidates} candidates: nothing to draw")
    return sample_codes(
        model,
        padded_text(model, encoder, captions),
        candidates,
        seed=seed,
        options=options,
        prompt=prompt,
        progress=progress,
    )


def padded_text(model: Transformer, encoder: TextEncoder, captions: Sequence[str]) -> Tensor:
    """Captions as padded ids [A, T] on the model's device."""
    ids, lengths = encoder.pad([encoder.encode(caption) for caption in captions])
    device = model.image_head.weight.device
    return model.pad_text(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))


def draw(
    model: Transformer,
    dvae: DVAE,
    encoder: TextEncoder,
    captions: Sequence[str],
    candidates: int,
    *,
    seed: int = 0,
    options: SamplingOptions | None = None,
    progress: Progress = lambda _: None,
) -> Tensor:
    """Pictures for captions, uint8 [captions, candidates, 3, S, S].

    Args:
        model: the transformer.
        dvae: decodes its codes.
        encoder: of the dataset it was trained on.
        captions: one or more.
        candidates: pictures for each, at least 1.
        seed: of everything random.
        options: how a code is chosen.
        progress: told how many pictures are done.

    Raises:
        InputError: without captions or candidates.
    """
    pictures: list[Tensor] = []
    for codes in draw_codes(model, encoder, captions, candidates, seed=seed, options=options):
        pictures.append(pictures_of(dvae, codes))
        progress(sum(map(len, pictures)))
    return torch.cat(pictures).unflatten(0, (len(captions), candidates))


@torch.inference_mode()
def pictures_of(dvae: DVAE, codes: Tensor) -> Tensor:
    """Codes [n, G*G] as pictures uint8 [n, 3, S, S] in host memory."""
    side = math.isqrt(codes.shape[1])
    return torch.cat([dvae.reconstruct(c.view(-1, side, side)).cpu() for c in codes.split(64)])
