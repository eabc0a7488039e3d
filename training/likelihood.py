"""Nats per token of a transformer on rows it was not trained on."""

from typing import NamedTuple

import pyarrow as pa
import torch

from training.models.transformer import Transformer
from training.token_data import TokenBatch, TokenData

_CHUNK = 64


class Nats(NamedTuple):
    """Mean nats per text token (padding included) and per image token, and how many rows."""

    text: float
    image: float
    rows: int


@torch.inference_mode()
def nats(model: Transformer, batch: TokenBatch, at_once: int = _CHUNK) -> Nats:
    """Teacher-forced nats of a batch of any size, `at_once` rows in one pass."""
    text = image = 0.0
    rows = len(batch.codes)
    device = model.image_head.weight.device
    for i in range(0, rows, at_once):
        part = TokenBatch(*(x[i : i + at_once] for x in (batch.text, batch.lengths, batch.codes)))
        part = part.to(device)
        padded = model.pad_text(part.text, part.lengths)
        found = model(padded, part.codes)
        share = len(part.codes) / rows
        text += share * float(found.text)
        image += share * float(found.image)
    return Nats(text, image, rows)


def right_and_shuffled(
    model: Transformer, data: TokenData, table: pa.Table, at_once: int = _CHUNK
) -> tuple[Nats, Nats]:
    """Nats with each row's own caption, and with the caption of another row.

    The other caption is the next one that differs, round the table, so every row has a wrong
    caption and none is used more than its share.

    Raises:
        ValueError: if the table does not hold two different captions.
    """
    captions = table["caption"].to_pylist()
    if len(set(captions)) < 2:
        raise ValueError("shuffling needs two different captions")
    count = len(captions)
    other = []
    for i, caption in enumerate(captions):
        # Half the table on, so that neighbours of one theme are not each other's wrong caption.
        j = (i + count // 2) % count
        while captions[j] == caption:
            j = (j + 1) % count
        other.append(j)
    right = data.plain_batch(table)
    index = torch.tensor(other)
    wrong = TokenBatch(right.text[index], right.lengths[index], right.codes)
    return nats(model, right, at_once), nats(model, wrong, at_once)
