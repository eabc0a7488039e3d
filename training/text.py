"""Captions to padded BPE ids, with BPE dropout in training.

`tokenizers` applies dropout too weakly (it lengthens text by 1.10 where the method's authors get
1.26) and takes no seed, so the merges are replayed here: at every step each possible merge is
left out with probability p, and the best that is left is made (arXiv 1910.13267, algorithm 1).
Only runs of a-z merge, so nothing else needs it.
"""

import itertools
import json
import random
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

_PIECES = re.compile(r"[a-z]+|[^a-z]")


class TextEncoder:
    """Encodes captions with the tokenizer of a published dataset.

    Args:
        tokenizer_json: content of `tokenizer.json`.
        length: text positions; what is longer is cut.
    """

    def __init__(self, tokenizer_json: str, length: int):
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.vocabulary = self.tokenizer.get_vocab_size()
        self.length = length
        self._ids: dict[str, int] = self.tokenizer.get_vocab()
        merges = json.loads(tokenizer_json)["model"]["merges"]
        pairs = (tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges)
        self._ranks: dict[tuple[str, ...], int] = {pair: i for i, pair in enumerate(pairs)}
        self._others: dict[str, list[int]] = {}

    def encode(self, caption: str) -> list[int]:
        """Canonical ids, at most `length`."""
        return self.tokenizer.encode(caption).ids[: self.length]

    def encode_with_dropout(self, caption: str, dropout: float, draw: random.Random) -> list[int]:
        """Ids with merges left out at random, at most `length`."""
        text = self.tokenizer.normalizer.normalize_str(caption)
        ids: list[int] = []
        for piece in _PIECES.findall(text):
            if "a" <= piece[0] <= "z":
                ids += self._merge(list(piece), dropout, draw)
            else:
                ids += self._other(piece)
            if len(ids) >= self.length:
                break
        return ids[: self.length]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], ...]:
        """Ids [B, length] (zero behind the text) and lengths [B]."""
        ids = np.zeros((len(rows), self.length), dtype=np.int64)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = values
        return ids, np.array([len(values) for values in rows], dtype=np.int64)

    def _merge(self, symbols: list[str], dropout: float, draw: random.Random) -> list[int]:
        while len(symbols) > 1:
            candidates = [
                (rank, i)
                for i, pair in enumerate(itertools.pairwise(symbols))
                if (rank := self._ranks.get(pair)) is not None and draw.random() >= dropout
            ]
            if not candidates:
                break
            _, i = min(candidates)
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        return [self._ids[symbol] for symbol in symbols]

    def _other(self, character: str) -> list[int]:
        if character not in self._others:
            self._others[character] = self.tokenizer.encode(character).ids
        return self._others[character]
