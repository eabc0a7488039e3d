"""Captions to the ids of a contrastive model's text tower: our tokenizer's, or CLIP's own.

Both frame a text alike: a start id, at most `context` - 2 ids, an end id that is the greatest of
all, then zeros.
"""

import gzip
import html
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor

from training.errors import InputError
from training.text import TextEncoder

# File name of our tokenizer, in its own directory and beside a finished model.
TOKENIZER = "tokenizer.json"
_INSTALL = "pip install 'dalle-graph[scores]' && pip install --no-deps open-clip-torch==3.3.0"
_MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
CLIP_VOCABULARY = 49_408
_CLIP_MERGES = CLIP_VOCABULARY - 2 * 256 - 2
# The pattern of openai/CLIP, simple_tokenizer.py.
_CLIP_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class CaptionIds(Protocol):
    """What a text tower is fed by.

    Attributes:
        vocabulary: number of ids, the start and the end included.
        context: text positions.
    """

    vocabulary: int
    context: int

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Ids int64 [captions, context]."""


class OwnText:
    """Our byte-pair tokenizer, with a start and an end behind its vocabulary."""

    def __init__(self, encoder: TextEncoder):
        self.encoder = encoder
        self.vocabulary, self.context = encoder.vocabulary + 2, encoder.length + 2

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Canonical ids, int64 [captions, context]."""
        return self.framed([self.encoder.encode(caption) for caption in captions])

    def framed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Ids with start and end, int64 [rows, context]."""
        return _framed(rows, self.vocabulary, self.context)


class ClipText:
    """CLIP's byte-pair tokenizer (arXiv 2103.00020, section 2.4).

    Its vocabulary is a file in the package `open-clip-torch`, of which nothing is imported.

    Raises:
        InputError: if a package is missing, with the command that installs it.
    """

    def __init__(self, context: int = 77):
        self.vocabulary, self.context = CLIP_VOCABULARY, context
        self._tokenizer = _clip_tokenizer()

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Ids int64 [captions, context]."""
        found = self._tokenizer.encode_batch([_cleaned(caption) for caption in captions])
        return _framed([text.ids for text in found], self.vocabulary, self.context)


def _framed(rows: Sequence[Sequence[int]], vocabulary: int, context: int) -> Tensor:
    ids = torch.zeros(len(rows), context, dtype=torch.int64)
    for row, values in zip(ids, rows, strict=True):
        framed = [vocabulary - 2, *values[: context - 2], vocabulary - 1]
        row[: len(framed)] = torch.tensor(framed)
    return ids


def _cleaned(caption: str) -> str:
    """As openai/CLIP cleans a text: damaged encodings repaired, entities resolved, lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return re.sub(r"\s+", " ", text).strip().lower()


def _clip_tokenizer() -> Tokenizer:
    lines = gzip.decompress(_merges_file().read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _CLIP_MERGES + 1]]
    characters = _byte_characters()
    words = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges)]
    model = models.BPE(
        vocab={word: i for i, word in enumerate(words)},
        merges=[(left, right) for left, right in merges],
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
    )
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(_CLIP_PIECES), behavior="removed", invert=True)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    return tokenizer


def _byte_characters() -> list[str]:
    """A printable character for each byte, in the order of GPT-2's and CLIP's vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]


def _merges_file() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or importlib.util.find_spec("ftfy") is None:
        raise InputError(
            f"CLIP's tokenizer needs its vocabulary and ftfy; install them: {_INSTALL}"
        )
    assert spec.origin is not None
    return Path(spec.origin).parent / _MERGES_FILE
