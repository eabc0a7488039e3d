"""Thresholds of the curation, with the paper's values as defaults."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

DETECTORS = ("cld3", "lid176")
ENCODINGS = ("png", "jpeg", "webp")
SHARMA_RULES = (
    "boilerplate_edge",
    "noun",
    "determiner",
    "preposition",
    "noun_ratio",
    "first_capital",
    "capital_ratio",
    "vocabulary",
    "polarity",
    "profanity",
)


@dataclass(frozen=True)
class CurateConfig:
    """What a pair must be like to be kept, and how its image is stored.

    Attributes:
        min_words: fewest words of a caption; a character of a script without spaces is a word.
        min_characters: fewest characters of a caption.
        max_words: most words of a caption (arXiv 2102.08981, section 2.2).
        max_characters: most characters of a caption.
        min_distinct_words: least share of a caption's words that differ from each other.
        sharma_rules: further rules of Sharma et al. (2018), by name (`SHARMA_RULES`).
        max_noun_ratio: for the rule `noun_ratio`, greatest share of nouns among the words.
        max_capital_ratio: for the rule `capital_ratio`, greatest share of capitalised words.
        max_polarity: for the rule `polarity`, greatest polarity either way, 0 to 1.
        drop_boilerplate: drop captions of which boilerplate leaves less than `min_words`.
        crop_boilerplate: cut boilerplate off the start and the end of captions (Sharma et al.
            2018, section 3.2), where enough words are left.
        language: ISO 639 code of the language that is kept.
        detector: `lid176` (fastText's lid.176) or `cld3` (the paper's; arXiv 2102.12092, App. C).
        min_language_score: least probability that the detector gives `language`.
        max_caption_images: most images of one batch that may share a caption (arXiv 2102.05918,
            section 3, with the same number for its whole crawl).
        max_image_urls: most URLs of one batch under which one file may lie.
        min_aspect: least width divided by height (arXiv 2102.12092, App. C).
        max_aspect: greatest width divided by height (arXiv 2102.12092, App. C).
        min_side: least length of both sides in pixels.
        min_bytes: least length of the original file.
        min_colour_range: least span of any colour channel; below it the image is one colour.
        min_contrast: least standard deviation of 32x32 grey levels, of 0 to 127.5.
        max_pixels: most pixels that the header may announce.
        max_frames: most frames that the header may announce; only the first is decoded.
        formats: Pillow's names of the formats that may be decoded.
        decoder_memory: bytes of address space for decoding one image.
        decoder_seconds: CPU seconds for decoding one image.
        short_side: shorter side of the stored image; smaller originals keep their size.
        encoding: format of the stored image; `png` is lossless.
        quality: of `jpeg` and `webp`, 1 to 100.
    """

    min_words: int = 3
    min_characters: int = 5
    max_words: int = 256
    max_characters: int = 2000
    min_distinct_words: float = 0.5
    sharma_rules: tuple[str, ...] = ()
    max_noun_ratio: float = 0.8
    max_capital_ratio: float = 0.7
    max_polarity: float = 0.8
    drop_boilerplate: bool = True
    crop_boilerplate: bool = False
    language: str = "en"
    detector: Literal["lid176", "cld3"] = "lid176"
    min_language_score: float = 0.0
    max_caption_images: int = 10
    max_image_urls: int = 10
    min_aspect: float = 0.5
    max_aspect: float = 2.0
    min_side: int = 256
    min_bytes: int = 5 * 1024
    min_colour_range: int = 8
    min_contrast: float = 2.0
    max_pixels: int = 64_000_000
    max_frames: int = 1000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
    decoder_memory: int = 2 << 30
    decoder_seconds: int = 20
    short_side: int = 256
    encoding: Literal["png", "jpeg", "webp"] = "jpeg"
    quality: int = 95

    def __post_init__(self) -> None:
        for name in ("max_caption_images", "max_image_urls", "max_frames", "decoder_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.decoder_memory < 1 << 24:
            raise ValueError(f"decoder_memory must be at least 16 MiB, got {self.decoder_memory}")
        if self.short_side < 8:
            raise ValueError(f"short_side must be at least 8 pixels, got {self.short_side}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, got {self.quality}")
        if not 0 < self.min_aspect <= self.max_aspect:
            raise ValueError(
                f"need 0 < min_aspect <= max_aspect, got {self.min_aspect} and {self.max_aspect}"
            )
        # Above its own limit Pillow refuses by itself, and the reason would be another one.
        limit = Image.MAX_IMAGE_PIXELS or self.max_pixels
        if not 1 <= self.max_pixels <= limit:
            raise ValueError(f"max_pixels must be 1 to {limit}, got {self.max_pixels}")
        unknown = sorted(set(self.sharma_rules) - set(SHARMA_RULES))
        if unknown:
            raise ValueError(
                f"unknown sharma_rules {', '.join(unknown)}; there are {', '.join(SHARMA_RULES)}"
            )
        if self.detector not in DETECTORS:
            raise ValueError(f"detector must be {' or '.join(DETECTORS)}, got {self.detector!r}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {ENCODINGS}, got {self.encoding!r}")
