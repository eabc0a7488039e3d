import pyarrow as pa
import pytest

from pipelines.curate import sharma
from pipelines.curate.captions import caption_reasons, caption_texts
from pipelines.curate.config import SHARMA_RULES, CurateConfig
from pipelines.curate.reasons import Reason
from pipelines.curate.sharma import RULES, packages
from pipelines.curate.speech import parts_of_speech, unknown_words

CONFIG = CurateConfig()
# A caption that breaks the rule, one that does not, and the reason.
CASES = {
    "boilerplate_edge": (
        "Profile photo: a dog on the grass",
        "A dog on the grass, with its profile photo in a frame",
        Reason.CAPTION_BOILERPLATE_EDGE,
    ),
    "noun": ("this is on it again", "running is on a table", Reason.CAPTION_NO_NOUN),
    "determiner": ("Dog on grass at night", "Dogs on their grass", Reason.CAPTION_NO_DETERMINER),
    "preposition": ("The dog is asleep", "The dog under tables", Reason.CAPTION_NO_PREPOSITION),
    "noun_ratio": (
        "Dog grass sun beach holiday wallpaper",
        "A happy dog runs on the green grass",
        Reason.CAPTION_MANY_NOUNS,
    ),
    "first_capital": ("a dog on the grass", "“A dog on the grass”", Reason.CAPTION_NOT_CAPITALISED),
    "capital_ratio": (
        "The Best Dog Of The Year",
        "The dog of the year in New York",
        Reason.CAPTION_MANY_CAPITALS,
    ),
    "vocabulary": (
        "A dgo on the beach of Xkqzvania",
        "“A deep-space probe, it's 12,000 km away (1998)” – Sumatran firefighter",
        Reason.CAPTION_UNKNOWN_WORD,
    ),
    "polarity": (
        "The most awesome and perfect dog",
        "A dog is asleep on the grass",
        Reason.CAPTION_POLAR,
    ),
    "profanity": (
        "hot porn pictures of a lady",
        "Scunthorpe cocktails in Sussex by day",
        Reason.CAPTION_PROFANE,
    ),
}


@pytest.mark.parametrize("name", SHARMA_RULES)
def test_each_rule_is_off_until_it_is_asked_for(name: str) -> None:
    bad, good, word = CASES[name]
    only = CurateConfig(sharma_rules=(name,))
    assert caption_reasons(pa.array([bad, good]), only).to_pylist() == [word, None]
    assert caption_reasons(pa.array([bad, good]), CONFIG).to_pylist() == [None, None]


@pytest.mark.parametrize(
    "caption", ["A dog on the grass | Embedded image permalink", "no image available of this dog"]
)
def test_cutting_leaves_what_drops_a_caption_at_its_edge(caption: str) -> None:
    config = CurateConfig(crop_boilerplate=True, sharma_rules=("boilerplate_edge",))
    found = caption_texts([caption], config)
    assert caption_reasons(found, config).to_pylist() == [Reason.CAPTION_BOILERPLATE_EDGE]


def test_all_rules_together_keep_a_sentence() -> None:
    config = CurateConfig(sharma_rules=SHARMA_RULES)
    sentence = "A brown dog is running along the beach in the morning"
    assert caption_reasons(pa.array([sentence]), config).to_pylist() == [None]
    assert caption_reasons(pa.array([], pa.string()), config).to_pylist() == []
    assert list(RULES) == list(SHARMA_RULES)


def test_parts_of_speech_are_counted_by_caption() -> None:
    captions = ["Two of my dogs, running fast!", "", "The cat sat on the mat"]
    found = parts_of_speech(pa.array(captions))
    assert [column.to_pylist() for column in found] == [
        [6, 0, 6],  # words
        [1, 0, 2],  # nouns
        [1, 0, 2],  # determiners
        [1, 0, 1],  # prepositions
    ]


def test_what_is_no_word_is_not_unknown() -> None:
    captions = ["– 12 (3/12) !", "xkqzjv and qqqzzxw", "a dog"]
    assert unknown_words(pa.array(captions)).to_pylist() == [0, 2, 0]


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharma, "find_spec", lambda name: None)
    assert packages(CurateConfig(sharma_rules=("first_capital",))) == []
    with pytest.raises(ValueError, match=r"need glin_profanity, textblob: pip install 'dalle"):
        packages(CurateConfig(sharma_rules=("noun", "profanity")))
