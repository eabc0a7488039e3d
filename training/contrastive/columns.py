"""What data stages are injected with: a contrastive model behind functions of plain pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from training.contrastive.checkpoint import load_embedder
from training.contrastive.embedding import Embedder

Array = npt.NDArray[np.float32]


def load_pair_scorer(path: str) -> Callable[[Sequence[Image.Image], Sequence[str]], Array]:
    """Similarity, -1 to 1, of each of N pictures and its own caption: float32 [N].

    Raises:
        ModelError: if there is no such model (`checkpoint.py`).
    """
    embedder = _load(path)

    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> Array:
        found: Array = (embedder.pictures(images) * embedder.captions(captions).numpy()).sum(axis=1)
        return found

    return score


def load_image_encoder(path: str) -> Callable[[Sequence[Image.Image]], Array]:
    """Unit vectors of N pictures of any size and mode: float32 [N, E].

    Raises:
        ModelError: if there is no such model (`checkpoint.py`).
    """
    return _load(path).pictures


def _load(path: str) -> Embedder:
    # Workers share the machine; each has one core.
    torch.set_num_threads(1)
    return load_embedder(Path(path))
