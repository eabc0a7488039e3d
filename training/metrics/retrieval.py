"""What the contrastive model finds among a set's pairs: recall at 1 and 5, against chance."""

from pathlib import Path

import numpy as np
import torch

from training.contrastive.embedding import Embedder
from training.contrastive.report import DEPTHS, recall
from training.metrics.plots import grouped_bars
from training.metrics.reference_set import ReferenceSet
from training.model_report import Section, Value

_MEASURED = 1000


def measure(references: ReferenceSet, embedder: Embedder, name: str, output: Path) -> Section:
    """Retrieval both ways among at most 1,000 pairs of a set.

    Args:
        references: real pictures and their captions.
        embedder: the model.
        name: of the model.
        output: directory of the plot.
    """
    print(f"{references.title}: retrieval by {name}", flush=True)
    # One caption of each picture: of two none would be the right one.
    firsts = np.unique(references.places, return_index=True)[1][:_MEASURED]
    captions = [references.captions[i] for i in firsts]
    parts, count = [], 0
    for batch in references.open():
        parts.append(embedder.images(batch))
        count += len(batch)
        if count >= len(captions):
            break
    found = recall(torch.cat(parts)[: len(captions)], embedder.captions(captions))
    prefix = f"{references.prefix}retrieval"
    figures: dict[str, Value] = {f"{prefix}_model": name, f"{prefix}_pairs": found.pairs}
    groups = {
        "picture to caption": found.image_to_text,
        "caption to picture": found.text_to_image,
        "chance": found.chance,
    }
    for key, shares in zip(
        ("image_to_text", "text_to_image", "chance"), groups.values(), strict=True
    ):
        for depth, share in zip(DEPTHS, shares, strict=True):
            figures[f"{prefix}_{key}_at_{depth}"] = share
    path = output / f"{prefix}.png"
    percent = {label: [100 * share for share in shares] for label, shares in groups.items()}
    names = [f"among the first {depth}" if depth > 1 else "the first" for depth in DEPTHS]
    grouped_bars(percent, names, f"right ones, per cent of {found.pairs:,} pairs", path)
    note = f"{name} looks for the other half of each pair among all of them; ties count as misses."
    return Section(f"Retrieval: {references.title}", [note], figures, [path])
