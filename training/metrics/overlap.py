"""Which reference pictures the training data copies, to measure without them, too.

The paper kept overlapping pictures in its data and measured twice (arXiv 2102.12092, section
3.1). Here deduplication writes into `dup_of` which reference a kept pair copies (modes `report`
and `flag`); pairs that were dropped are in no model.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipelines import ledger, parquet
from pipelines.storage import list_files


def copied_references(pairs: Iterable[str]) -> frozenset[str]:
    """Names of the references that the kept pairs of batches copy.

    Args:
        pairs: directories deduped_pairs/batch=...

    Raises:
        DatasetError, FileNotFoundError: if one is not finished.
    """
    found: set[str] = set()
    for directory in pairs:
        ledger.require_success(directory)
        for part in list_files(directory, ".parquet"):
            for batch in parquet.read_batches(part, columns=["dup_of"]):
                found.update(batch.column(0).drop_null().to_pylist())
    return frozenset(found)


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
