"""Parts of speech, polarity, profanity and vocabulary of English captions.

By packages of the extra `captions`, which carry their lexicons inside them and download nothing:
TextBlob (MIT; its tagger and polarity are those of `pattern`), glin-profanity (MIT) and wordfreq
(Apache-2.0, its data CC-BY-SA 4.0). They are imported by the rule that asks for them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

_NOUN = "NN"
# Of the Penn Treebank's tags; possessive pronouns stand where determiners do.
_DETERMINERS = frozenset(("DT", "PDT", "WDT", "PRP$", "WP$"))
_PREPOSITIONS = frozenset(("IN", "TO"))
_LANGUAGE = "en"


class Speech(NamedTuple):
    """Words of each caption, and how many are nouns, determiners, prepositions: int32 [N] each."""

    words: pa.Array
    nouns: pa.Array
    determiners: pa.Array
    prepositions: pa.Array


def parts_of_speech(captions: pa.StringArray) -> Speech:
    """Count the parts of speech of each caption."""
    tagged = _tagger()
    counts = np.zeros((len(captions), 4), np.int32)
    for row, caption in zip(counts, captions.to_pylist(), strict=True):
        # Tags of punctuation start with no letter.
        tags = [tag for _, tag in tagged(caption) if tag[:1].isalpha()]
        row[:] = (
            len(tags),
            sum(tag.startswith(_NOUN) for tag in tags),
            sum(tag in _DETERMINERS for tag in tags),
            sum(tag in _PREPOSITIONS for tag in tags),
        )
    return Speech(*(pa.array(column) for column in counts.T))


def polarity(captions: pa.StringArray) -> pa.Array:
    """How good or bad each caption says something is: float64 [N], -1 to 1."""
    score = _polarity()
    return pa.array([score(caption) for caption in captions.to_pylist()], pa.float64())


def profane(captions: pa.StringArray) -> pa.BooleanArray:
    """Captions with a word of English profanity or pornography."""
    found = _profanity()
    return pa.array([found(caption) for caption in captions.to_pylist()], pa.bool_())


def unknown_words(captions: pa.StringArray) -> pa.Array:
    """Words of each caption that wordfreq does not list: int32 [N].

    It lists what makes up more than one in 100 million words of Wikipedia, subtitles, news, books
    and the web.
    """
    known = functools.cache(_frequency())
    counts = [
        sum(known(word) == 0 for word in caption.split() if any(map(str.isalpha, word)))
        for caption in captions.to_pylist()
    ]
    return pa.array(counts, pa.int32())


@functools.cache
def _tagger() -> Callable[[str], list[tuple[str, str]]]:
    from textblob.taggers import PatternTagger

    tag: Callable[[str], list[tuple[str, str]]] = PatternTagger().tag
    return tag


@functools.cache
def _polarity() -> Callable[[str], float]:
    from textblob.sentiments import PatternAnalyzer

    analyzer = PatternAnalyzer()
    return lambda caption: float(analyzer.analyze(caption).polarity)


@functools.cache
def _profanity() -> Callable[[str], bool]:
    from glin_profanity import Filter

    found: Callable[[str], bool] = Filter({"languages": ["english"]}).is_profane
    return found


@functools.cache
def _frequency() -> Callable[[str], float]:
    from wordfreq import word_frequency

    return lambda word: word_frequency(word, _LANGUAGE, wordlist="large")
