"""Draw pictures for captions: image codes one position at a time, with cached keys and values.

Every candidate has noise of its own, drawn from (seed, caption, candidate): how the work is split
into batches decides nothing, and captions that differ in capitals alone draw different pictures.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training import host_memory
from training.drawing.choosing import SamplingOptions, chosen, groups, noise_of
from training.errors import InputError
from training.models.decoding import Decoder, bytes_per_caption, bytes_per_stream, for_few_rows
from training.models.dvae import DVAE
from training.models.transformer import Transformer
from training.text import TextEncoder

_MOST_PROGRAMS = 64
_MOST_STREAMS = {"cuda": 1024, "cpu": 64}
Progress = Callable[[int], object]
# Is shown the codes [n, P] of the first P positions, at the end of every row of codes.
Look = Callable[[Tensor], object]


class Drawn(NamedTuple):
    """Codes int64 [n, G*G] in raster order, and their nats by the model, summed, fp32 [n]."""

    codes: Tensor
    nats: Tensor


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


class Drawing(nn.Module):
    """Candidates of some captions that are drawn together; memory is allocated here, once.

    Everything that changes from code to code is a buffer, the position too: a step has static
    shapes, takes nothing from the host and gives nothing to it.

    Args:
        model: in evaluation mode.
        captions: A.
        candidates: K of each; B = A * K streams.
        options: how a code is chosen.
        prompt: what is given of every picture.
    """

    codes: Tensor
    nats: Tensor
    position: Tensor
    noise: Tensor
    known: Tensor
    kept: Tensor

    def __init__(
        self,
        model: Transformer,
        captions: int,
        candidates: int,
        options: SamplingOptions,
        prompt: Prompt | None,
    ):
        super().__init__()
        self.options = options
        self.decoder = Decoder(model, captions * (2 if options.guided else 1), candidates)
        streams, positions = captions * candidates, model.grid**2
        clocks = sum(groups(model.image_vocabulary))
        like = model.image_head.weight
        nothing = torch.zeros(positions, dtype=torch.long)
        known, kept = (nothing, nothing) if prompt is None else (prompt.codes, prompt.kept)
        for name, buffer in (
            ("codes", like.new_zeros(streams, positions, dtype=torch.long)),
            ("nats", like.new_zeros(streams, dtype=torch.float32)),
            ("position", like.new_zeros(1, dtype=torch.long)),
            ("noise", like.new_zeros(streams, positions, clocks, dtype=torch.float32)),
            ("known", known.flatten().to(like.device)),
            ("kept", kept.flatten().to(like.device, torch.bool)),
        ):
            self.register_buffer(name, buffer)

    def begin(self, text: Tensor | None, noise: Tensor) -> None:
        """Read padded text [A, T], or keep that of the last time, and draw the first codes."""
        if text is not None and self.options.guided:
            model, nothing = self.decoder.model, torch.zeros_like(text)
            text = torch.cat((text, model.pad_text(nothing, nothing[:, 0])))
        self.noise.copy_(noise)
        self.nats.zero_()
        self.position.zero_()
        self._choose(self.decoder.begin_again() if text is None else self.decoder.begin(text))

    def forward(self) -> None:
        """Draw the next codes."""
        last = self.codes.index_select(1, self.position).squeeze(1)
        logits = self.decoder(last.repeat(2) if self.options.guided else last, self.position)
        self.position.add_(1)
        self._choose(logits)

    def _choose(self, logits: Tensor) -> None:
        logits = logits.log_softmax(-1)
        own, plain = logits.split(len(self.codes)) if self.options.guided else (logits, logits)
        if self.options.guided:
            logits = plain + self.options.guidance * (own - plain)
        noise = self.noise.index_select(1, self.position).squeeze(1)
        codes = chosen(self.options.scores(logits), noise)
        known, kept = (x.index_select(0, self.position) for x in (self.known, self.kept))
        codes = torch.where(kept, known, codes)
        self.codes.index_copy_(1, self.position, codes[:, None])
        self.nats.sub_(own.gather(1, codes[:, None]).squeeze(1))


@torch.inference_mode()
def sample_codes(
    model: Transformer,
    text: Tensor,
    candidates: int,
    *,
    seed: int = 0,
    options: SamplingOptions | None = None,
    prompt: Prompt | None = None,
    keys: Sequence[str] | None = None,
    most: int | None = None,
    progress: Progress = lambda _: None,
    look: Look = lambda _: None,
) -> Iterator[Drawn]:
    """Sample codes for captions, as many at a time as memory allows.

    Args:
        model: in evaluation mode.
        text: padded ids [A, T] (`Transformer.pad_text`).
        candidates: pictures for each caption, at least 1.
        seed: with the caption and the number of the candidate, the seed of its noise.
        options: how a code is chosen.
        prompt: what is given of every picture.
        keys: the captions, as they are written; without them their ids make the seeds.
        most: streams at a time; None is what memory allows.
        progress: told after every position how many codes were drawn since the last call.
        look: shown what is drawn so far.

    Yields:
        All candidates of the first caption come first.

    Raises:
        InputError: if the model's logits are no numbers.
    """
    options, model = options or SamplingOptions(), for_few_rows(model)
    most = most or streams_in_memory(model, options, candidates)
    keys = keys or [str(row.tolist()) for row in text]
    same_shape = itertools.groupby(
        _parts(len(text), candidates, most), key=lambda part: (len(part[0]), part[2])
    )
    for (captions, count), parts in same_shape:
        drawing = Drawing(model, captions, count, options, prompt)
        step = _step(drawing)
        read: range | None = None
        for rows, first, _ in parts:
            seeds = [_seed(seed, keys[row], first + i) for row in rows for i in range(count)]
            wanted = len(rows) * min(count, candidates - first)
            positions = model.grid**2
            noise = noise_of(seeds, positions, model.image_vocabulary, text.device)
            # More candidates of captions whose keys and values are there.
            drawing.begin(None if rows == read else text[rows.start : rows.stop], noise)
            read = rows
            progress(wanted)
            for drawn in range(2, positions + 1):
                step()
                progress(wanted)
                if drawn % model.grid == 0:
                    look(drawing.codes[:wanted, :drawn])
            if not bool(drawing.nats.isfinite().all()):
                raise InputError(
                    "what the transformer says of the next code is no number: its weights are "
                    "damaged; copy it again whole, or train again"
                )
            yield Drawn(drawing.codes[:wanted].clone(), drawing.nats[:wanted].clone())
        del drawing, step  # so that its memory is free before the next is allocated


def _step(drawing: Drawing) -> Callable[[], None]:
    if not drawing.codes.is_cuda:
        return drawing
    # One program for each number of captions and candidates, replayed as a CUDA graph.
    return torch.compile(  # type: ignore[call-overload]
        drawing, fullgraph=True, mode="reduce-overhead", recompile_limit=_MOST_PROGRAMS
    )


def _parts(captions: int, candidates: int, most: int) -> Iterator[tuple[range, int, int]]:
    """Captions, the first candidate and how many: the batches of a whole work.

    Batches of one caption are of one size, so that one program and the text's cache serve all of
    them: the last may have candidates beyond the last, which are not wanted.
    """
    if candidates >= most:
        count = -(-candidates // -(-candidates // most))
        for row in range(captions):
            for first in range(0, candidates, count):
                yield range(row, row + 1), first, count
    else:
        together = most // candidates
        for start in range(0, captions, together):
            yield range(start, min(start + together, captions)), 0, candidates


def streams_in_memory(model: Transformer, options: SamplingOptions, candidates: int) -> int:
    """How many streams half of the free memory holds, rounded down to a power of two.

    The candidates of a caption share its text. Free memory is never the same twice, and each number
    of streams is a program of its own.
    """
    device = model.image_head.weight.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for its next tensors is free, too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = host_memory.available()
    each = bytes_per_stream(model) + -(-bytes_per_caption(model) // candidates)
    each *= 2 if options.guided else 1
    # Noise is made beside the buffer that it is copied to.
    each += 8 * model.grid**2 * sum(groups(model.image_vocabulary))
    fit = max(1, min(free // (2 * each), _MOST_STREAMS.get(device.type, 64)))
    return int(2 ** (fit.bit_length() - 1))


def _seed(seed: int, caption: str, candidate: int) -> int:
    key = f"{seed} {candidate} {caption}".encode()
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
    look: Look = lambda _: None,
) -> Iterator[Drawn]:
    """`sample_codes` of captions.

    Raises:
        InputError: without captions or candidates.
    """
    if not captions or candidates < 1:
        raise InputError(f"{len(captions)} captions x {candidates} candidates: nothing to draw")
    ids, lengths = encoder.pad([encoder.encode(caption) for caption in captions])
    device = model.image_head.weight.device
    return sample_codes(
        model,
        model.pad_text(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)),
        candidates,
        seed=seed,
        options=options,
        prompt=prompt,
        keys=captions,
        progress=progress,
        look=look,
    )


def draw(
    model: Transformer,
    dvae: DVAE,
    encoder: TextEncoder,
    captions: Sequence[str],
    candidates: int,
    *,
    seed: int = 0,
    options: SamplingOptions | None = None,
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

    Raises:
        InputError: without captions or candidates.
    """
    drawn = draw_codes(model, encoder, captions, candidates, seed=seed, options=options)
    pictures = torch.cat([pictures_of(dvae, part.codes) for part in drawn])
    return pictures.unflatten(0, (len(captions), candidates))


@torch.inference_mode()
def pictures_of(dvae: DVAE, codes: Tensor) -> Tensor:
    """Codes [n, G*G] as pictures uint8 [n, 3, S, S] in host memory."""
    side = dvae.config.grid
    return torch.cat([dvae.reconstruct(c.view(-1, side, side)).cpu() for c in codes.split(64)])
