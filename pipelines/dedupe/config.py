"""How reference copies and repeats are found and what becomes of them."""

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What becomes of a pair whose picture copies a reference image."""

    DROP = "drop"
    FLAG = "flag"
    REPORT = "report"


@dataclass(frozen=True)
class DedupeConfig:
    """The recipe of the reference index, of the search in it, and of the repeats.

    A query is a candidate if its 64-bit hash lies within `radius` of a variant's, and a copy if
    then the 256-bit hash lies within `confirm`. Among 164,000 parts of other photographs the 64-bit
    hash of the full frame flags 37 of 359 photographs and 220 of 1,436 quarters of them, both
    hashes 1, which is there twice, and 28, sky or wall (`benchmarks.photograph_recall`).

    Attributes:
        mode: `drop` reference copies; keep and `flag` them in `dup_of`; or `report`: keep and
            flag them, and list the references that they copy, so that an evaluation can leave
            those out (arXiv 2102.12092, section 3.1: "overlap").
        radius: greatest 64-bit Hamming distance of a candidate.
        confirm: greatest 256-bit Hamming distance of a copy; 48 is strict.
        crops: per cent of each side that the centred crops of a reference remove.
        cuts: per cent that are cut off at one edge, or at two that meet; finds copies that lost an
            edge, for 16 more hashes of each reference and per cent (6 is a good one).
        min_contrast: standard deviation of grey levels below which a picture is not decided
            upon: its hash is noise, and all flat pictures have the same one.
        measured_references: how many references the index attacks to measure its own recall.
        measured_unrelated: how many references are asked for without their own hashes, to
            measure how often unrelated pictures are flagged.
        near_repeats: whether near-identical pictures are repeats, too, not only equal files.
        repeat_radius: greatest 64-bit distance of near-identical pictures.
        repeat_confirm: greatest 256-bit distance of near-identical pictures.
        repeat_colour: greatest difference, in levels of 255, of the mean colours of any of 4x4
            fields of near-identical pictures; variants of one drawing differ in colour alone.
    """

    mode: Mode = Mode.DROP
    radius: int = 10
    confirm: int = 56
    crops: tuple[int, ...] = (3, 6, 10)
    cuts: tuple[int, ...] = ()
    min_contrast: float = 4.0
    measured_references: int = 200
    measured_unrelated: int = 20_000
    near_repeats: bool = True
    repeat_radius: int = 4
    repeat_confirm: int = 10
    repeat_colour: int = 4

    def __post_init__(self) -> None:
        if self.mode not in list(Mode):
            raise ValueError(f"mode must be one of {', '.join(Mode)}, got {self.mode!r}")
        for near, far in (("radius", "confirm"), ("repeat_radius", "repeat_confirm")):
            bits64, bits256 = getattr(self, near), getattr(self, far)
            if not 0 <= bits64 <= 64 or not 0 <= bits256 <= 256:
                raise ValueError(
                    f"{near} must be 0 to 64 bits and {far} 0 to 256, got {bits64} and {bits256}"
                )
        if any(not 0 < percent < 100 for percent in (*self.crops, *self.cuts)):
            raise ValueError(
                f"crops and cuts are per cent between 0 and 100, got {self.crops} and {self.cuts}"
            )
        if self.measured_references < 0 or self.measured_unrelated < 0:
            raise ValueError("measured_references and measured_unrelated must not be negative")
