"""Likelihood of each split with right and with shuffled captions, and how many codes are used."""

import math
from pathlib import Path

from training.drawing.pictures import bars
from training.dvae.codebook import perplexity
from training.likelihood import nats, right_and_shuffled
from training.model_report import Section, Value
from training.models.transformer import Transformer
from training.splits import Split
from training.token_data import TokenData

_ROWS = 512
_NOTE = (
    "Shuffled captions belong to another row of the same split: a model that listens to its "
    "captions gives the codes fewer nats with the right ones. A uniform guess is the logarithm of "
    "the codebook's size."
)


def measure(model: Transformer, data: TokenData, output: Path) -> Section:
    """Nats per token over at most 512 rows of each split; figures and bars.

    Args:
        model: on its device.
        data: the dataset it was trained on.
        output: directory of the plot.
    """
    print("likelihood with right and with shuffled captions", flush=True)
    heights = {"uniform": math.log(model.image_vocabulary)}
    figures: dict[str, Value] = {}
    for split in Split:
        table = data.stream(split).all_rows(_ROWS)
        if table.num_rows == 0:
            continue
        if split is Split.TRAIN:
            spread, used = perplexity(data.plain_batch(table).codes, model.image_vocabulary)
            figures |= {"codebook_perplexity": spread, "codebook_used": used}
        two = len(set(table["caption"].to_pylist())) > 1
        if two:
            right, shuffled = right_and_shuffled(model, data, table)
        else:
            right = nats(model, data.plain_batch(table))
        heights[split.value] = right.image
        figures |= {
            f"{split}_rows": right.rows,
            f"{split}_nats_text": right.text,
            f"{split}_nats_image": right.image,
        }
        if two:
            heights[f"{split.value}, shuffled captions"] = shuffled.image
            figures[f"{split}_nats_image_shuffled"] = shuffled.image
            figures[f"{split}_caption_gain"] = shuffled.image - right.image
    path = output / "likelihood.png"
    bars(heights, "nats per image token", path)
    return Section("Likelihood", [_NOTE], figures, [path])
