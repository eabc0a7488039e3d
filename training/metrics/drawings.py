"""Candidates for captions: drawn once, kept on disk as codes, scored, the best of any beginning.

Candidate i of a caption has noise of its own, so the best of the first n candidates is what n
candidates alone would have given: one drawing of N serves the whole curve over 1, 2, 4, ..., N.

Shapes: A captions, N candidates of each, G side of the grid. A picture's number is a * N + i.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from training.contrastive.embedding import Embedder
from training.drawing.sampling import draw_codes, pictures_of
from training.metrics.parts import Parts
from training.models.dvae import DVAE
from training.models.transformer import Transformer
from training.text import TextEncoder

# Pictures of a part, which is what a kill loses at most.
_PART = 1024
# Pictures that are decoded at the same time.
_TOGETHER = 256
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Painter:
    """Models that draw and choose.

    Attributes:
        transformer: draws codes.
        dvae: makes pictures of them.
        encoder: of captions.
        identity: hashes of the three and the precision, by name.
        embedder: scores pictures; None if nothing chooses.
        embedder_id: which one.
    """

    transformer: Transformer
    dvae: DVAE
    encoder: TextEncoder
    identity: dict[str, str]
    embedder: Embedder | None = None
    embedder_id: str = ""


class Drawings:
    """Candidates of captions.

    Args:
        painter: draws them.
        captions: A of them.
        candidates: N of each, at least 1.
        directory: keeps codes and scores in parts, so that a killed program goes on.
        seed: with a caption and the number of a candidate, the seed of its noise.
    """

    def __init__(
        self,
        painter: Painter,
        captions: Sequence[str],
        candidates: int,
        directory: Path,
        seed: int = 0,
    ):
        self.painter, self.captions, self.candidates = painter, captions, candidates
        self._seed = seed
        words = hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()
        self._step = max(1, _PART // candidates)
        plan: dict[str, Any] = {
            **painter.identity, "captions": words, "candidates": candidates, "seed": seed,
            "captions_in_a_part": self._step,
        }  # fmt: skip
        self._codes = Parts(directory / "codes", plan)
        self._scores = Parts(directory / "scores", {**plan, "model": painter.embedder_id})

    def __len__(self) -> int:
        """Pictures in all, A * N."""
        return len(self.captions) * self.candidates

    def draw(self, done: Callable[[int], None] = lambda _: None) -> None:
        """Draw and score what is missing; `done` is told how many pictures there are."""
        codes = len(self) * self.painter.transformer.grid**2
        with tqdm(total=codes, unit="code", unit_scale=True, desc="drawing", disable=None) as bar:
            for part in range(self._parts):
                found = self._part(part, bar.update)
                if self.painter.embedder is not None:
                    self._scored(part)
                end = min((part + 1) * self._step, len(self.captions)) * self.candidates
                bar.update(end * found.shape[-1] - bar.n)
                done(end)

    def best(self, first: int) -> Numbers:
        """Numbers [A] of the pictures that score best among the first candidates."""
        starts = np.arange(len(self.captions)) * self.candidates
        if self.painter.embedder is None or first == 1:
            return starts
        return starts + self.scores[:, :first].argmax(1)

    @functools.cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """Cosines [A, N] of each caption with its candidates."""
        return np.concatenate([self._scored(part) for part in range(self._parts)])

    def pictures(self, numbers: Numbers) -> Iterator[Tensor]:
        """Pictures uint8 [n, 3, S, S] of some numbers, which ascend."""
        each = self._step * self.candidates
        parts, starts = np.unique(numbers // each, return_index=True)
        for part, own in zip(parts, np.split(numbers % each, starts[1:]), strict=True):
            codes = self._part(int(part)).reshape(-1, self.painter.transformer.grid**2)[own]
            for some in torch.from_numpy(codes.astype(np.int64)).split(_TOGETHER):
                yield self._decoded(some)

    @property
    def _parts(self) -> int:
        return -(-len(self.captions) // self._step)

    def _decoded(self, codes: Tensor) -> Tensor:
        dvae = self.painter.dvae
        return pictures_of(dvae, codes.to(dvae.encoder.input.weight.device))

    def _part(
        self, number: int, progress: Callable[[int], object] = lambda _: None
    ) -> npt.NDArray[np.uint16]:
        """Codes [a, N, G * G] of the captions of a part."""
        start = number * self._step
        captions = self.captions[start : start + self._step]

        def make() -> npt.NDArray[np.uint16]:
            painter = self.painter
            drawn = draw_codes(
                painter.transformer, painter.encoder, captions, self.candidates,
                seed=self._seed, progress=progress,
            )  # fmt: skip
            flat = torch.cat([some.codes.cpu() for some in drawn]).numpy().astype(np.uint16)
            return flat.reshape(len(captions), self.candidates, -1)

        return self._codes.get(number, make)

    def _scored(self, number: int) -> npt.NDArray[np.float32]:
        """Scores [a, N] of a part."""
        embedder = self.painter.embedder
        assert embedder is not None
        start = number * self._step
        captions = self.captions[start : start + self._step]

        def make() -> npt.NDArray[np.float32]:
            flat = torch.from_numpy(self._part(number).astype(np.int64)).flatten(0, 1)
            parts = [embedder.images(self._decoded(some)) for some in flat.split(_TOGETHER)]
            images = torch.cat(parts).unflatten(0, (len(captions), self.candidates))
            scores: npt.NDArray[np.float32] = torch.einsum(
                "ane,ae->an", images, embedder.captions(captions)
            ).numpy()
            return scores

        return self._scores.get(number, make)
