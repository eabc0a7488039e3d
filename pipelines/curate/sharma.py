"""Rules of Sharma et al. (2018, section 3.2) that arXiv 2102.12092 does not name; off by default.

"A well-formed caption should have a high unique word ratio covering various POS tags": they drop
candidates without a determiner, a noun or a preposition, and those with a high noun ratio; and
those whose first word is not capitalised or that have too many capitalised words. They tagged
parts of speech with a service. Here words of the closed classes, of which English has a few
hundred, are known by their list, and every other word counts as one of the open classes: nouns,
but also verbs, adjectives and adverbs. So `noun` drops too little, never too much, and
`noun_ratio` is a ratio of open-class words, which is higher than one of nouns.

Not here: the polarity and profanity annotations, and the vocabulary of the English Wikipedia.
Repeated tokens are `pipelines.curate.captions.repetitive`, their boilerplate is `boilerplate`.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.columns import dropped_where
from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason

DETERMINERS = (
    "a an the this that these those my your his her its our their whose some any no every each "
    "either neither both all half several many much few little more most less least enough such "
    "what which another other one two three four five six seven eight nine ten eleven twelve "
    "dozen hundred thousand first second third last next"
)
PREPOSITIONS = (
    "about above across after against along alongside amid among amongst around as at atop before "
    "behind below beneath beside besides between beyond by despite down during except for from in "
    "inside into like near of off on onto opposite out outside over past per plus round since "
    "through throughout to toward towards under underneath until unto up upon versus via vs with "
    "within without"
)
_OTHERS = (
    "i me you he him she it we us they them mine yours hers ours theirs myself yourself himself "
    "herself itself ourselves themselves who whom where when why how and or but nor so yet if "
    "because while although though than whether unless am is are was were be been being do does "
    "did done has have had having will would shall should can could may might must not n't never "
    "always often just only also too very quite rather almost even still again here there now "
    "then today once not yes ok"
)
_CLOSED = f"{DETERMINERS} {PREPOSITIONS} {_OTHERS}"
_WORD = r"[\pL\pN][\pL\pN\pM'’-]*"


def sharma_reasons(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """The first of the rules in `config.sharma_rules` that each caption breaks, else null."""
    columns = [RULES[name](captions, config) for name in RULES if name in config.sharma_rules]
    return pc.coalesce(*columns, pa.nulls(len(captions), pa.string()))


def no_noun(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """No word but those of the closed classes."""
    return dropped_where(pc.equal(_open_class_words(captions), 0), Reason.CAPTION_NO_NOUN)


def no_determiner(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """No article, possessive, quantifier or numeral."""
    found = pc.match_substring_regex(captions, rf"(?i)(?:{_one_of(DETERMINERS)}|\b\d+\b)")
    return dropped_where(pc.invert(found), Reason.CAPTION_NO_DETERMINER)


def no_preposition(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """No preposition."""
    found = pc.match_substring_regex(captions, rf"(?i){_one_of(PREPOSITIONS)}")
    return dropped_where(pc.invert(found), Reason.CAPTION_NO_PREPOSITION)


def many_nouns(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """A list of keywords: too great a share of words of the open classes."""
    share = _share(_open_class_words(captions), captions)
    return dropped_where(pc.greater(share, config.max_noun_ratio), Reason.CAPTION_MANY_NOUNS)


def not_capitalised(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """The first letter or digit is a lower-case letter."""
    lower = pc.match_substring_regex(captions, r"^[^\pL\pN]*\p{Ll}")
    return dropped_where(lower, Reason.CAPTION_NOT_CAPITALISED)


def many_capitals(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """A title or shouting: too great a share of capitalised words."""
    capitalised = pc.count_substring_regex(captions, r"(?:^|[^\pL\pN\pM'’-])\p{Lu}")
    share = _share(capitalised, captions)
    return dropped_where(pc.greater(share, config.max_capital_ratio), Reason.CAPTION_MANY_CAPITALS)


Rule = Callable[[pa.StringArray, CurateConfig], pa.StringArray]
# By their names in `CurateConfig.sharma_rules`, in the order in which they are asked.
RULES: dict[str, Rule] = {
    "noun": no_noun,
    "determiner": no_determiner,
    "preposition": no_preposition,
    "noun_ratio": many_nouns,
    "first_capital": not_capitalised,
    "capital_ratio": many_capitals,
}


def _open_class_words(captions: pa.StringArray) -> pa.Array:
    left = pc.replace_substring_regex(captions, rf"(?i){_one_of(_CLOSED)}", " ")
    return pc.count_substring_regex(left, r"\b\pL[\pL\pM'’-]*")


def _share(part: pa.Array, captions: pa.StringArray) -> pa.Array:
    words = pc.max_element_wise(pc.count_substring_regex(captions, _WORD), 1)
    return pc.divide(part.cast(pa.float64()), words.cast(pa.float64()))


def _one_of(words: str) -> str:
    return rf"\b(?:{'|'.join(words.split())})\b"
