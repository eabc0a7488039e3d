"""Which captions a sample sheet shows: some held out, some for validation, most trained on."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from training.splits import Split
from training.token_data import TokenData

# What a person recognises at a glance.
_THEMES = re.compile(r"\bflag of\b|\bheart\b|o’clock|o'clock|\bface\b")
_SCANNED = 100_000


@dataclass(frozen=True)
class Line:
    """One line of the sheet."""

    caption: str
    split: Split


def choose_lines(data: TokenData, limit: int) -> list[Line]:
    """Up to `limit` captions, the same ones for the same dataset.

    A quarter is held out, an eighth is for validation; the rest was trained on, its themes
    (flags, hearts, clocks, faces, anything else) in turn.
    """
    shares = {Split.HELD_OUT: limit // 4, Split.VALIDATION: limit // 8}
    lines = [
        Line(caption, split)
        for split, share in shares.items()
        for caption in _captions(data, split)[: max(share, 1)]
    ]
    seen = _in_turns(_captions(data, Split.TRAIN))
    return lines[:limit] + [Line(c, Split.TRAIN) for c in seen[: max(limit - len(lines), 0)]]


def _captions(data: TokenData, split: Split) -> list[str]:
    """Distinct captions, in an order that mixes them and is the same everywhere."""
    captions = set(data.captions(split, _SCANNED))
    return sorted(captions, key=lambda c: hashlib.sha256(c.encode()).digest())


def _in_turns(captions: Sequence[str]) -> list[str]:
    themes: dict[str, list[str]] = {}
    for caption in captions:
        found = _THEMES.search(caption)
        themes.setdefault(found.group() if found else "", []).append(caption)
    longest = max(map(len, themes.values()), default=0)
    return [
        caption for i in range(longest) for group in themes.values() for caption in group[i : i + 1]
    ]
