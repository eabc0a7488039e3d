"""Which reference pictures the crawl has copies of, to measure without them, too.

The paper kept overlapping pictures in its data and measured twice (arXiv 2102.12092, section
3.1). Here deduplication lists the references that a batch's pairs copy, those of dropped pairs
too, so that the second measurement is there in each of its modes.
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from pipelines import ledger, parquet, storage
from pipelines.layout import join
from pipelines.schemas import OVERLAP_FILE
from training.errors import InputError


def copied_references(pairs: Iterable[str]) -> frozenset[str]:
    """Names of the references that pairs of batches copy, whether these were kept or dropped.

    Args:
        pairs: directories deduped_pairs/batch=...

    Raises:
        DatasetError, FileNotFoundError: if one is not finished.
        InputError: if one has no list of references.
    """
    found: set[str] = set()
    for directory in pairs:
        ledger.require_success(directory)
        url = join(directory, OVERLAP_FILE)
        if not storage.exists(url):
            raise InputError(
                f"{url}, the references that the batch's pairs copy, is missing; remove "
                f"{directory} and materialise deduped_pairs of that batch again"
            )
        for batch in parquet.read_batches(url, columns=["reference"]):
            found.update(batch.column(0).to_pylist())
    return frozenset(found)


def not_given(batches: Iterable[str], pairs: Iterable[str]) -> list[str]:
    """Batches of a dataset of which no directory is among `pairs`."""
    there = {PurePath(directory).name.removeprefix("batch=") for directory in pairs}
    return [name for name in batches if name not in there]


def overlapping(names: Sequence[str], copied: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Which of a set's pictures are among the copied ones, bool [names].

    A set may have been indexed from a folder above it or below it, so of two names the shorter
    must be the end of the longer, by whole folders.
    """
    ends: set[str] = set()
    whole: set[str] = set()
    for name in copied:
        parts = name.split("/")
        whole.add(name)
        ends.update("/".join(parts[i:]) for i in range(len(parts)))

    def is_copied(name: str) -> bool:
        parts = name.split("/")
        if name in ends:
            return True
        return any("/".join(parts[i:]) in whole for i in range(1, len(parts)))

    return np.array([is_copied(name) for name in names], dtype=bool)
