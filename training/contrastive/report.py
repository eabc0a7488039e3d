"""What a finished contrastive model is worth: retrieval among pairs it was not trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from training.config import SplitConfig
from training.contrastive.embedding import Embedder
from training.drawing.pictures import contact_sheet, curves, to_images
from training.dvae.images import plain_batch
from training.row_stream import RowStream
from training.splits import Split

_MEASURED = 1000
_SHOWN = 24
_PICTURES = 5
_LABEL_WIDTH = 200
DEPTHS = (1, 5)


class Retrieval(NamedTuple):
    """Share of N pairs whose other half is among the nearest 1 and 5, and what chance gives."""

    pairs: int
    image_to_text: tuple[float, ...]
    text_to_image: tuple[float, ...]
    chance: tuple[float, ...]


def recall(images: Tensor, captions: Tensor) -> Retrieval:
    """Retrieval both ways among N pairs of distinct captions; unit vectors [N, E] each.

    A tie counts against the pair, so that a model that says the same of everything finds nothing.
    """
    similarity = images @ captions.T
    count = len(similarity)

    def shares(rows: Tensor) -> tuple[float, ...]:
        rank = (rows >= rows.diagonal()[:, None]).sum(dim=1)
        return tuple(float((rank <= depth).float().mean()) for depth in DEPTHS)

    chance = tuple(min(depth / count, 1.0) for depth in DEPTHS)
    return Retrieval(count, shares(similarity), shares(similarity.T), chance)


def write(
    embedder: Embedder, output: Path, files: list[str], splits: SplitConfig
) -> dict[str, float | int | str]:
    """Measure retrieval, print it, and draw `retrieval.png` and `curves.png`.

    Returns:
        For the splits `validation` and `held_out`, as far as the corpus has them: SPLIT_pairs,
        SPLIT_image_to_text_at_1, ..._at_5, SPLIT_text_to_image_at_1, ..._at_5, SPLIT_chance_at_1,
        ..._at_5.
    """
    summary: dict[str, float | int | str] = {
        "parameters": sum(p.numel() for p in embedder.model.parameters())
    }
    shown: list[tuple[str, Sequence]] = []
    for split in (Split.VALIDATION, Split.HELD_OUT):
        table = distinct(RowStream(files, ["image"], split, splits).all_rows(_MEASURED))
        if table.num_rows < 2:
            continue
        pictures = plain_batch(table, embedder.image_size)
        captions = table["caption"].to_pylist()
        images, texts = embedder.images(pictures), embedder.captions(captions)
        found = recall(images, texts)
        summary |= _figures(split.value, found)
        print(_line(split.value, found), flush=True)
        shown += _nearest(captions, pictures, images, texts)
    if shown:
        contact_sheet(shown, output / "retrieval.png", columns=2, label_width=_LABEL_WIDTH)
    panels = {
        "nats per pair": ["loss"],
        "scale of logits": ["scale"],
        "gradient norm": ["gradient_norm"],
    }
    curves(output, panels)
    return summary


def distinct(table: pa.Table) -> pa.Table:
    """The first row of each caption: of two equal captions none is the right one."""
    first: dict[str, int] = {}
    for row, caption in enumerate(table["caption"].to_pylist()):
        first.setdefault(caption, row)
    return table.take(pa.array(first.values(), pa.int64()))


def _figures(split: str, found: Retrieval) -> dict[str, float | int | str]:
    figures: dict[str, float | int | str] = {f"{split}_pairs": found.pairs}
    for name in ("image_to_text", "text_to_image", "chance"):
        for depth, share in zip(DEPTHS, getattr(found, name), strict=True):
            figures[f"{split}_{name}_at_{depth}"] = share
    return figures


def _line(split: str, found: Retrieval) -> str:
    def shares(values: tuple[float, ...]) -> str:
        return " / ".join(f"{value:.1%}" for value in values)

    return (
        f"{split}, {found.pairs} pairs, recall at 1 / 5: image to text "
        f"{shares(found.image_to_text)}, text to image {shares(found.text_to_image)}, "
        f"chance {shares(found.chance)}"
    )


def _nearest(
    captions: Sequence[str], pictures: Tensor, images: Tensor, texts: Tensor
) -> list[tuple[str, Sequence]]:
    """For some captions the pictures that are nearest, the nearest first."""
    nearest = torch.topk(texts[:_SHOWN] @ images.T, min(_PICTURES, len(images))).indices
    return [
        (caption, to_images(pictures[rows]))
        for caption, rows in zip(captions, nearest, strict=False)
    ]
