"""Which pairs are trained on. The answer depends on the pair alone, so every program agrees."""

from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.config import SplitConfig


class Split(StrEnum):
    """Parts of a dataset."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELD_OUT = "held_out"


def rows_of(
    split: Split, config: SplitConfig, uid: pa.ChunkedArray, caption: pa.ChunkedArray
) -> npt.NDArray[np.bool_]:
    """Which rows belong to `split`, bool [rows].

    A caption that matches a held-out pattern is held out; of the others a share, chosen by uid
    (which is a hash), is for validation.
    """
    held_out = np.zeros(len(uid), dtype=bool)
    for pattern in config.held_out:
        held_out |= pc.match_substring_regex(caption, pattern, ignore_case=True).to_numpy(
            zero_copy_only=False
        )
    if split is Split.HELD_OUT:
        return held_out
    first = np.frombuffer(b"".join(u[:8] for u in uid.to_pylist()), dtype=">u8")
    validation = first < np.uint64(config.validation * 2.0**64)
    return ~held_out & (validation if split is Split.VALIDATION else ~validation)
