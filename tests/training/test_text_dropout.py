import json
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_corpus import caption

from pipelines.encode.bpe import learn
from pipelines.encode.config import BpeConfig
from training.text import TextEncoder

CAPTIONS = [
    *(caption(i) for i in range(300)),
    "",
    " ",
    "Das rote Herz, gemalt!",
    "ein schöner ÄRGER mit ß und ẞ",
    "un cœur rouge : dessiné à l'été",
    "e\u0301te\u0301 decomposed",
    "猫の絵文字、赤いハート",
    "красное сердце и Ёлка",
    "قلب أحمر مرسوم",
    "लाल दिल का चित्र",
    "İstanbul ISPARTA ıĞ",
    "👩🏽‍🚒 firefighter 🇫🇯 10:30",
    "line\nbreak\ttab\u00a0space",
    "aaaaaaaaaaaaaaaaaaaaaa",
    "K Å ﬁ ㎏ ½",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    tokenizer = learn((c for c in CAPTIONS for _ in range(3)), BpeConfig(vocabulary=600))
    return TextEncoder(tokenizer.to_str(), length=1000)


def ids(encoder: TextEncoder, text: str, dropout: float, seed: object = 0) -> list[int]:
    return encoder.encode_with_dropout(text, dropout, random.Random(str(seed)))


@pytest.mark.parametrize("text", CAPTIONS[298:])
def test_without_dropout_the_ids_are_the_tokenizers(encoder: TextEncoder, text: str) -> None:
    assert ids(encoder, text, 0.0) == encoder.encode(text)


def test_without_dropout_no_caption_of_the_corpus_differs(encoder: TextEncoder) -> None:
    assert [ids(encoder, c, 0.0) for c in CAPTIONS] == [encoder.encode(c) for c in CAPTIONS]


@given(st.text(max_size=40))
def test_without_dropout_the_ids_of_any_text_are_the_tokenizers(
    encoder: TextEncoder, text: str
) -> None:
    assert ids(encoder, text, 0.0) == encoder.encode(text)


@given(st.text(alphabet="firefghtknumbajos ", max_size=40), st.floats(0, 1), st.integers())
def test_any_dropout_keeps_the_text(
    encoder: TextEncoder, text: str, dropout: float, seed: int
) -> None:
    found = ids(encoder, text, dropout, seed)
    assert encoder.tokenizer.decode(found) == text
    assert len(found) <= len(text)


def test_dropout_lengthens_and_keeps_the_normalised_text(encoder: TextEncoder) -> None:
    plain, dropped = 0, 0
    for i, text in enumerate(CAPTIONS):
        found = ids(encoder, text, 0.1, i)
        plain, dropped = plain + len(encoder.encode(text)), dropped + len(found)
        assert encoder.tokenizer.decode(found) == encoder.tokenizer.normalizer.normalize_str(text)
        assert unicodedata.is_normalized("NFC", encoder.tokenizer.decode(found))
    assert 1.03 < dropped / plain < 1.4


def test_everything_dropped_is_bytes(encoder: TextEncoder) -> None:
    assert ids(encoder, "firefighter", 1.0) == encoder.encode("f i r e f i g h t e r")[::2]


def test_the_seed_decides_the_ids(encoder: TextEncoder) -> None:
    text = "firefighter number one and a fire engine as an emoji, red heart and the flag of fiji"
    assert ids(encoder, text, 0.3, 1) == ids(encoder, text, 0.3, 1)
    assert len({tuple(ids(encoder, text, 0.3, seed)) for seed in range(20)}) > 10


def test_text_is_cut_at_the_length(encoder: TextEncoder) -> None:
    short = TextEncoder(encoder.tokenizer.to_str(), length=5)
    text = "猫の絵文字 firefighter number"
    assert short.encode(text) == ids(short, text, 0.0) == encoder.encode(text)[:5]


def test_padding(encoder: TextEncoder) -> None:
    short = TextEncoder(encoder.tokenizer.to_str(), length=4)
    rows, lengths = short.pad([[5, 6], [], [1, 2, 3, 4]])
    assert rows.tolist() == [[5, 6, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]]
    assert lengths.tolist() == [2, 0, 4]
    assert rows.dtype == lengths.dtype == np.int64


def reference_lengths(word: str, ranks: dict[tuple[str, str], int], dropout: float) -> float:
    """Expected number of symbols by algorithm 1 of arXiv 1910.13267, over every outcome."""
    known: dict[tuple[str, ...], float] = {}

    def expected(symbols: tuple[str, ...]) -> float:
        if symbols not in known:
            places = [i for i in range(len(symbols) - 1) if symbols[i : i + 2] in ranks]
            places.sort(key=lambda i: (ranks[symbols[i], symbols[i + 1]], i))
            total, none_before = 0.0, 1.0
            for i in places:
                # Merged if it was not left out and every better merge was.
                joined = (*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :])
                total += none_before * (1 - dropout) * expected(joined)
                none_before *= dropout
            known[symbols] = total + none_before * len(symbols)
        return known[symbols]

    return expected(tuple(word))


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_text_is_as_much_longer_as_the_method_says(encoder: TextEncoder, dropout: float) -> None:
    merges = json.loads(encoder.tokenizer.to_str())["model"]["merges"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
    words = ("firefighter", "number", "emoji", "engine", "heart")
    draws = 3000
    wanted = sum(reference_lengths(word, ranks, dropout) for word in words)  # type: ignore[arg-type]
    drawn = [len(ids(encoder, word, dropout, f"{i}")) for i in range(draws) for word in words]
    # A word's length has a deviation below 2, so the mean of the sums one below 0.1.
    assert sum(drawn) / draws == pytest.approx(wanted, abs=0.3)
    plain = sum(len(encoder.encode(word)) for word in words)
    assert wanted > 1.15 * plain
