"""Configuration of the byte-pair tokenizer and of the encoding."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

BYTES = 256
_UINT16_VALUES = 2**16
_UINT8_VALUES = 2**8
Precision = Literal["fp32", "bf16"]

# How token tables are written. Image codes are near their entropy, so what counts is speed: at
# 32 x 32 codes of 8,192 BYTE_STREAM_SPLIT reads 1.3 and writes 1.7 times as fast as dictionary
# pages, within 4 % of their size. Identifiers and ids need no minimum and maximum.
TOKEN_FILE_OPTIONS: dict[str, Any] = {
    "use_dictionary": ["crop_id", "text_length", "text_tokens.list.element"],
    "column_encoding": {"image_tokens.list.element": "BYTE_STREAM_SPLIT"},
    "write_statistics": ["crop_id", "text_length", "text_truncated"],
}


@dataclass(frozen=True)
class BpeConfig:
    """Byte-level BPE over lower-cased captions (arXiv 2102.12092, section 2.2).

    Attributes:
        vocabulary: entries wanted, the 256 bytes included. A corpus with fewer merges gives a
            smaller vocabulary; its true size is in the marker and in the schemas.
        max_length: ids kept of a caption; the rest is cut and the row says so.
        min_frequency: a pair of symbols seen less often is not merged.
    """

    vocabulary: int = 16384
    max_length: int = 256
    min_frequency: int = 2

    def __post_init__(self) -> None:
        if not BYTES <= self.vocabulary <= _UINT16_VALUES:
            raise ValueError(
                f"vocabulary must be {BYTES} (every byte) to {_UINT16_VALUES} (ids are uint16), "
                f"got {self.vocabulary}"
            )
        if self.max_length < 1 or self.min_frequency < 1:
            raise ValueError(
                "max_length and min_frequency must be at least 1, "
                f"got {self.max_length} and {self.min_frequency}"
            )


@dataclass(frozen=True)
class EncodeConfig:
    """How pairs become token rows. Only `crops` and `precision` change the rows.

    Attributes:
        crops: deterministic crops of every image (`image_tokens.crop`), one row each.
        precision: that the image tokenizer computes in, `fp32` or `bf16`.
        batch: images handed to the image tokenizer at once.
        shards_together: input shards of one piece of work, over whose borders batches are filled.
        decode_threads: threads of a worker that decode pictures.
    """

    crops: int = 1
    precision: Precision = "fp32"
    batch: int = 128
    shards_together: int = 4
    decode_threads: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.crops <= _UINT8_VALUES:
            raise ValueError(f"crops must be 1 to {_UINT8_VALUES} (uint8), got {self.crops}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        for name in ("batch", "shards_together", "decode_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def batch_rows(self) -> int:
        """Pairs decoded as one piece of work, so that their crops are at most a batch."""
        return max(1, self.batch // self.crops)
