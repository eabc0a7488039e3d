"""Configuration of a publication."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishConfig:
    """How a version is laid out, and what its card says.

    Attributes:
        rows_per_file: rows of a part file (250,000 rows of 32 x 32 codes are about 450 MB).
        row_group_rows: rows of a row group.
        seed: of the shuffle.
        bucket_rows: rows sorted in memory at once; bounds memory, and does not change a byte.
        title: first line of the card.
        description: what the data is, in the card.
        licences: terms of the captions and images, and credits, in the card.
        samples: pairs that the card shows.
    """

    rows_per_file: int = 250_000
    row_group_rows: int = 4096
    seed: int = 0
    bucket_rows: int = 100_000
    title: str = "Image-text tokens"
    description: str = "Image-text pairs found on the web, as BPE ids and grids of dVAE codes."
    licences: str = "Captions and images belong to their owners; see the `url` of each row."
    samples: int = 10

    def __post_init__(self) -> None:
        for name in ("rows_per_file", "row_group_rows", "bucket_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.samples < 0 or self.seed < 0:
            raise ValueError("samples and seed must not be negative")
