"""Caption rules: functions over a column of normalised captions, null to keep or a reason.

The paper took "a subset" of the filters of Sharma et al. (2018) and names three: captions that
are too short, not English, or mostly boilerplate such as "photographed on <date>"
(arXiv 2102.12092, App. C). The language rule is in `pipelines.curate.language`, those of Sharma
et al. that the paper does not name in `pipelines.curate.sharma`.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.boilerplate import CROPPED, PATTERNS, at_edges
from pipelines.curate.columns import dropped_where, one_chunk
from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason
from pipelines.curate.sharma import sharma_reasons
from pipelines.identity import normalise_caption

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A word has a letter or a digit; dashes and other marks between spaces are none.
_WORD = rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]*[\pL\pN][^\s{_NO_SPACES}]*"
# What words are compared by: letters and digits in a row, or one character without spaces about it.
_COMPARED = rf"([{_NO_SPACES}])|[^\pL\pM\pN]+"
# Of text without spaces so many characters at most are held against the number of different ones,
# for a language has few.
_CHARACTERS = 20
_WORD_WITH_LETTER = rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]*\pL[^\s{_NO_SPACES}]*"

_BOILERPLATE = tuple(f"(?i){pattern}" for pattern in PATTERNS)
_AT_START, _AT_END = at_edges(CROPPED)
# "... (3/12) | stock photo"
_CROPS = 2


def caption_texts(raw: Sequence[str], config: CurateConfig) -> pa.StringArray:
    """The captions that the rules judge and the dataset holds, from those that were crawled."""
    texts = pa.array([normalise_caption(caption) for caption in raw], pa.string())
    return cropped(texts, config) if config.crop_boilerplate else texts


def cropped(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """Without boilerplate at their start and end, where enough words are left.

    What is little but boilerplate stays whole, and is dropped as such.
    """
    left = captions
    for pattern in (_AT_START, _AT_END) * _CROPS:
        left = pc.replace_substring_regex(left, pattern, "")
    enough = pc.greater_equal(word_count(left), config.min_words)
    return pc.if_else(enough, left, captions)


def caption_reasons(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """The first rule that each caption breaks, null where it breaks none.

    Args:
        captions: normalised by `pipelines.identity.normalise_caption`, without nulls.
        config: the thresholds.
    """
    return pc.coalesce(
        boilerplate(captions, config),
        too_short(captions, config),
        too_long(captions, config),
        repetitive(captions, config),
        sharma_reasons(captions, config),
    )


def word_count(captions: pa.StringArray) -> pa.Array:
    """Words of each caption, int32; characters of scripts without spaces count one each."""
    return pc.count_substring_regex(captions, _WORD)


def too_short(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """Fewer words or characters than the configuration asks for."""
    few_words = pc.less(word_count(captions), config.min_words)
    few_characters = pc.less(pc.utf8_length(captions), config.min_characters)
    return dropped_where(pc.or_(few_words, few_characters), Reason.CAPTION_TOO_SHORT)


def too_long(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """More words or characters than the configuration allows."""
    many_words = pc.greater(word_count(captions), config.max_words)
    many_characters = pc.greater(pc.utf8_length(captions), config.max_characters)
    return dropped_where(pc.or_(many_words, many_characters), Reason.CAPTION_TOO_LONG)


def repetitive(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """Too small a share of distinct words ("Sale, sale, SALE!"; Sharma et al. 2018, section 3.2).

    In text without spaces each character counts as a word, but no more than 20 of them in all.
    """
    apart = pc.replace_substring_regex(pc.utf8_lower(captions), _COMPARED, r" \1 ")
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(apart))
    pairs = pa.table(
        {"row": pc.list_parent_indices(words).cast(pa.int64()), "word": pc.list_flatten(words)}
    )
    distinct = pairs.group_by(["row", "word"]).aggregate([]).group_by("row")
    counted = distinct.aggregate([("word", "count")]).sort_by("row").column("word_count")
    whole = pc.list_value_length(words)
    unspaced = pc.match_substring_regex(captions, f"[{_NO_SPACES}]")
    whole = pc.if_else(unspaced, pc.min_element_wise(whole, _CHARACTERS), whole)
    share = pc.divide(counted.cast(pa.float64()), whole.cast(pa.float64()))
    mask = pc.less(share, config.min_distinct_words)
    return dropped_where(one_chunk(mask), Reason.CAPTION_REPETITIVE)


def boilerplate(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """Mostly boilerplate: without date stamps, URLs, file names and the like, too few words stay.

    "A dog on a beach, photographed on 3 May 2019" is kept whole, "photographed on 3 May 2019"
    goes.
    """
    if not config.drop_boilerplate:
        return pa.nulls(len(captions), pa.string())
    left = captions
    for pattern in _BOILERPLATE:
        left = pc.replace_substring_regex(left, pattern, " ")
    few_left = pc.less(pc.count_substring_regex(left, _WORD_WITH_LETTER), config.min_words)
    return dropped_where(
        pc.and_(pc.not_equal(left, captions), few_left), Reason.CAPTION_BOILERPLATE
    )
