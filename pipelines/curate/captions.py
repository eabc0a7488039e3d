"""Caption rules: functions over a column of normalised captions, null to keep or a reason.

The paper took "a subset" of the filters of Sharma et al. (2018) and names three: captions that
are too short, not English, or mostly boilerplate such as "photographed on <date>"
(arXiv 2102.12092, App. C). The language rule is in `pipelines.curate.language`.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason, dropped_where

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A word has a letter or a digit; dashes and other marks between spaces are none.
_WORD = rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]*[\pL\pN][^\s{_NO_SPACES}]*"
_WORD_WITH_LETTER = rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]*\pL[^\s{_NO_SPACES}]*"

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = (
    rf"{_WEEKDAY}(?:the\s+)?(?:\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}"
    rf"|{_DAY}[\s-]+(?:of\s+)?{_MONTH},?(?:[\s-]+\d{{2,4}})?"
    rf"|{_MONTH}\s+{_DAY},?(?:\s+\d{{4}})?|{_MONTH},?\s+\d{{4}}|(?:19|20)\d{{2}})"
    r"(?:t|,?\s+)?(?:at\s+)?(?:\d{1,2}:\d{2}(?::\d{2})?z?(?:\s*[ap]\.?m\.?)?)?"
)
_MADE = (
    r"(?:photo(?:graph(?:ed)?)?|picture|image|shot|taken|captured|uploaded|posted|published"
    r"|created|dated|recorded|updated|added|scanned)"
)
_PICTURE = r"(?:image|photo(?:graph)?|picture|pic|slide|page|figure|fig\.?|img|thumbnail|view|item)"
_BOILERPLATE = (
    rf"\b{_MADE}(?:\s+(?:was|is|{_MADE}))*(?:\s+(?:on|in|at|from))?:?\s*{_DATE}",
    r"(?:https?://|www\.)\S+",
    r"\b[^\s/]+\.(?:jpe?g|png|gif|bmp|tiff?|webp|svg|heic|avif)\b",
    r"\b(?:img|dsc[nf]?|dcim|pict|pxl|mvi|gopr|screen\s?shot)[\s_-]?\d{2,}[\w-]*",
    rf"\b{_PICTURE}\s*(?:no\.?|number|#)?\s*\d+\s*(?:of|/|out\s+of)\s*\d+\b",
    r"\b(?:royalty[\s-]free\s+)?stock\s+(?:photo(?:graph)?|image|picture|illustration|vector)s?\b",
    r"\bclick\s+(?:here\s+)?(?:to|for)\s+(?:enlarge|zoom|view|see|a\s+larger)(?:\s+\w+){0,3}",
    r"\b(?:no\s+)?(?:image|photo|picture)\s+(?:not\s+)?(?:available|found|coming\s+soon)\b",
    r"\ball\s+rights\s+reserved\b",
)


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
    """Too small a share of distinct words ("sale sale sale"; Sharma et al. 2018, section 3.2)."""
    words = pc.split_pattern(pc.utf8_lower(captions), " ")
    pairs = pa.table(
        {"row": pc.list_parent_indices(words).cast(pa.int64()), "word": pc.list_flatten(words)}
    )
    distinct = pairs.group_by(["row", "word"]).aggregate([]).group_by("row")
    counted = distinct.aggregate([("word", "count")]).sort_by("row").column("word_count")
    share = pc.divide(counted.cast(pa.float64()), pc.list_value_length(words).cast(pa.float64()))
    mask = pc.less(share, config.min_distinct_words)
    return dropped_where(_one_chunk(mask), Reason.CAPTION_REPETITIVE)


def boilerplate(captions: pa.StringArray, config: CurateConfig) -> pa.StringArray:
    """Mostly boilerplate: without date stamps, URLs, file names and the like, too few words stay.

    "A dog on a beach, photographed on 3 May 2019" is kept whole, "photographed on 3 May 2019"
    goes.
    """
    left = captions
    for pattern in _BOILERPLATE:
        left = pc.replace_substring_regex(left, f"(?i){pattern}", " ")
    few_left = pc.less(pc.count_substring_regex(left, _WORD_WITH_LETTER), config.min_words)
    return dropped_where(
        pc.and_(pc.not_equal(left, captions), few_left), Reason.CAPTION_BOILERPLATE
    )


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
