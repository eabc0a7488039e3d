"""Thresholds of the curation, with the paper's values as defaults."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image


@dataclass(frozen=True)
class CurateConfig:
    """What a pair must be like to be kept, and how its image is stored.

    Attributes:
        min_words: fewest words of a caption; a character of a script without spaces is a word.
        min_characters: fewest characters of a caption.
        max_words: most words of a caption (arXiv 2102.08981, section 2.2).
        max_characters: most characters of a caption.
        min_distinct_words: least share of a caption's words that differ from each other.
        language: ISO 639 code of the language that is kept.
        detector: `lid176` (fastText's lid.176) or `cld3` (the paper's; arXiv 2102.12092, App. C).
        min_language_score: least probability that the detector gives `language`.
        min_aspect: least width divided by height (arXiv 2102.12092, App. C).
        max_aspect: greatest width divided by height (arXiv 2102.12092, App. C).
        min_side: least length of both sides in pixels.
        min_bytes: least length of the original file.
        min_colour_range: least span of any colour channel; below it the image is one colour.
        min_contrast: least standard deviation of 32x32 grey levels, of 0 to 127.5.
        max_pixels: most pixels that the header may announce.
        formats: Pillow's names of the formats that may be decoded.
        short_side: shorter side of the stored image; smaller originals keep their size.
        encoding: format of the stored image; `png` is lossless.
        quality: of `jpeg` and `webp`, 1 to 100.
    """

    min_words: int = 3
    min_characters: int = 5
    max_words: int = 256
    max_characters: int = 2000
    min_distinct_words: float = 0.5
    language: str = "en"
    detector: Literal["lid176", "cld3"] = "lid176"
    min_language_score: float = 0.0
    min_aspect: float = 0.5
    max_aspect: float = 2.0
    min_side: int = 256
    min_bytes: int = 5 * 1024
    min_colour_range: int = 8
    min_contrast: float = 2.0
    max_pixels: int = 64_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    short_side: int = 256
    encoding: Literal["png", "jpeg", "webp"] = "jpeg"
    quality: int = 95

    def __post_init__(self) -> None:
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
        if self.detector not in ("lid176", "cld3"):
            raise ValueError(f"detector must be lid176 or cld3, got {self.detector!r}")
        if self.encoding not in ("png", "jpeg", "webp"):
            raise ValueError(f"encoding must be png, jpeg or webp, got {self.encoding!r}")
