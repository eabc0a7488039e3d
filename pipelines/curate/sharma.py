"""Rules of Sharma et al. (2018) that arXiv 2102.12092 does not name; off by default.

Section 3.2, "Text-based Filtering", of "Conceptual Captions" (ACL 2018, P18-1238): candidates go
that have no determiner, no noun or no preposition; a high noun ratio; a first word without a
capital, or too many words with one; a start or an end of certain patterns ("profile photo"); a
token that the English Wikipedia has fewer than five times; a polarity that is too high or too low;
or that a detector of pornography and profanity names. They give no thresholds. Their rule of token
repetition is `pipelines.curate.captions.repetitive`, and what they cut off both ends is `cropped`
there.

They tagged with Google's service and counted in a dump of Wikipedia; what does it here, offline,
is said in `pipelines.curate.speech`.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate import speech
from pipelines.curate.boilerplate import NO_CAPTION, at_edges
from pipelines.curate.columns import dropped_where
from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason

_NO_CAPTION_AT_EDGE = "|".join(f"(?:{edge})" for edge in at_edges(NO_CAPTION))
_WORD = r"[\pL\pN][\pL\pN\pM'’-]*"


class Captions:
    """A column of normalised captions, tagged once for the rules that want it."""

    def __init__(self, texts: pa.StringArray):
        self.texts = texts

    @functools.cached_property
    def speech(self) -> speech.Speech:
        """The parts of speech of each caption."""
        return speech.parts_of_speech(self.texts)


def sharma_reasons(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """The first of the rules in `config.sharma_rules` that each caption breaks, else null."""
    column = Captions(captions)
    asked = [rule for name, rule in RULES.items() if name in config.sharma_rules]
    reasons = [rule.judge(column, config) for rule in asked]
    return pc.coalesce(*reasons, pa.nulls(len(captions), pa.string()))


def packages(config: CurateConfig) -> list[str]:
    """What the rules in `config.sharma_rules` import.

    Raises:
        ValueError: if one of them is not installed.
    """
    needed = {RULES[name].package for name in config.sharma_rules}
    found = sorted(package for package in needed if package is not None)
    missing = [package for package in found if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"the sharma_rules {', '.join(config.sharma_rules)} need {', '.join(missing)}: "
            "pip install 'dalle-graph[captions]'"
        )
    return found


def boilerplate_edge(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """Begins or ends with what no caption is, "embedded image permalink" for instance."""
    found = pc.match_substring_regex(captions.texts, _NO_CAPTION_AT_EDGE)
    return dropped_where(found, Reason.CAPTION_BOILERPLATE_EDGE)


def no_noun(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """No common or proper noun."""
    return dropped_where(pc.equal(captions.speech.nouns, 0), Reason.CAPTION_NO_NOUN)


def no_determiner(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """No article, demonstrative, quantifier or possessive; a number is none."""
    return dropped_where(pc.equal(captions.speech.determiners, 0), Reason.CAPTION_NO_DETERMINER)


def no_preposition(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """No preposition."""
    return dropped_where(pc.equal(captions.speech.prepositions, 0), Reason.CAPTION_NO_PREPOSITION)


def many_nouns(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """A list of keywords: too great a share of nouns."""
    share = _share(captions.speech.nouns, captions.speech.words)
    return dropped_where(pc.greater(share, config.max_noun_ratio), Reason.CAPTION_MANY_NOUNS)


def not_capitalised(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """The first letter or digit is a lower-case letter."""
    lower = pc.match_substring_regex(captions.texts, r"^[^\pL\pN]*\p{Ll}")
    return dropped_where(lower, Reason.CAPTION_NOT_CAPITALISED)


def many_capitals(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """A title or shouting: too great a share of capitalised words."""
    capitalised = pc.count_substring_regex(captions.texts, r"(?:^|[^\pL\pN\pM'’-])\p{Lu}")
    share = _share(capitalised, pc.count_substring_regex(captions.texts, _WORD))
    return dropped_where(pc.greater(share, config.max_capital_ratio), Reason.CAPTION_MANY_CAPITALS)


def unknown_word(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """A word that is hardly ever written in English: a typing error, a code, a rare name."""
    unknown = pc.greater(speech.unknown_words(captions.texts), 0)
    return dropped_where(unknown, Reason.CAPTION_UNKNOWN_WORD)


def polar(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """Praise or abuse rather than a description."""
    strength = pc.abs(speech.polarity(captions.texts))
    return dropped_where(pc.greater(strength, config.max_polarity), Reason.CAPTION_POLAR)


def profane(captions: Captions, config: CurateConfig) -> pa.StringArray:
    """A word of profanity or pornography."""
    return dropped_where(speech.profane(captions.texts), Reason.CAPTION_PROFANE)


class Rule(NamedTuple):
    """A function that names the captions to drop, and the package it needs."""

    judge: Callable[[Captions, CurateConfig], pa.StringArray]
    package: str | None = None


# By their names in `CurateConfig.sharma_rules`, in the order in which they are asked.
RULES = {
    "boilerplate_edge": Rule(boilerplate_edge),
    "noun": Rule(no_noun, "textblob"),
    "determiner": Rule(no_determiner, "textblob"),
    "preposition": Rule(no_preposition, "textblob"),
    "noun_ratio": Rule(many_nouns, "textblob"),
    "first_capital": Rule(not_capitalised),
    "capital_ratio": Rule(many_capitals),
    "vocabulary": Rule(unknown_word, "wordfreq"),
    "polarity": Rule(polar, "textblob"),
    "profanity": Rule(profane, "glin_profanity"),
}


def _share(part: pa.Array, whole: pa.Array) -> pa.Array:
    words = pc.max_element_wise(whole, 1)
    return pc.divide(part.cast(pa.float64()), words.cast(pa.float64()))
