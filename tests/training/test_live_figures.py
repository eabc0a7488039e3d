"""What a run of stage two says of itself while it runs: every line of its metrics, by name."""

import dataclasses
from pathlib import Path

import pytest
import tiny_training
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import Finished
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training import recipes, train_dalle
from training.config import TransformerConfig
from training.dalle.flops import model_flops
from training.dalle.precision import Precision
from training.models import transformer
from training.models.attention import Pattern, split
from training.models.attention_masks import attention_mask, layer_kinds
from training.models.transformer import Transformer
from training.reporting import TENSORBOARD, read_metrics

PEAK = 1e12
EVERY = {"step", "text", "image", "gradient_norm", "step_size", "skipped", "tokens_per_s"}
LOOKED = {"validation_text", "validation_image", "validation_image_shuffled"}
SCALES = {"log2_scale_least", "log2_scale_greatest"}


def figures(output: Path) -> list[dict[str, float]]:
    """Lines of the metrics, which TensorBoard shows too."""
    lines = read_metrics(output)
    board = EventAccumulator(str(output / TENSORBOARD))
    board.Reload()
    assert set(board.Tags()["scalars"]) == set().union(*lines) - {"step"}
    return lines


def test_a_finished_run_has_said_everything(finished: Finished) -> None:
    lines = figures(finished.dalle)
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert all(line.keys() == EVERY for line in lines)


def test_validation_the_scales_of_fp16_and_the_use_of_a_known_device(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_training.tiny()
    looking = dataclasses.replace(tiny.dalle_training, validate_every=2)
    recipe = dataclasses.replace(tiny, dalle_training=looking)
    monkeypatch.setitem(recipes.RECIPES, tiny_training.NAME, lambda: recipe)
    monkeypatch.setattr(train_dalle, "peak_flops", lambda _: PEAK)
    half = Precision.FP16_PER_BLOCK
    train_dalle.train(
        tiny_training.NAME, finished.dataset, tmp_path, updates=3, precision=half
    )  # fmt: skip
    lines = figures(tmp_path)
    for line in lines:
        looked = LOOKED if line["step"] == 2 else set()
        assert line.keys() == EVERY | SCALES | {"mfu"} | looked
        assert 0 < line["mfu"] < 1
    assert len(lines) == 3


def counted_attention(heads: Tensor, pattern: Pattern) -> Tensor:
    q, k, v = split(heads)
    scores = (q @ k.mT).masked_fill(~pattern.mask(), -torch.inf)
    return scores.softmax(-1) @ v


def counted_feed_forward(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    return F.linear(F.gelu(F.linear(x, up.weight)), down.weight)


def counted_nats(head: nn.Linear, states: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, head.weight).mT, targets)


def test_the_work_of_an_update_is_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for pairs that masks leave out; with the fast paths in products that torch counts."""
    monkeypatch.setattr(transformer, "attention", counted_attention)
    monkeypatch.setattr(transformer, "feed_forward", counted_feed_forward)
    monkeypatch.setattr(transformer, "linear_cross_entropy", counted_nats)
    rows, config = 3, TransformerConfig(depth=3, heads=2, head_width=8, convolution_kernel=3)
    model = Transformer(config, 50, 10, 32, 4)
    text = torch.zeros(rows, model.text_length, dtype=torch.long)
    codes = torch.zeros(rows, model.grid**2, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        found = model(text, codes)
        (found.text + found.image).backward()
    left_out = 0
    for kind in layer_kinds(config.depth):
        mask = attention_mask(kind, 11, 4, 3)[: model.length, : model.length]
        left_out += int((~mask).sum())
    # Two products, forward once and backward twice, two operations each.
    expected = model_flops(model, rows) + 12 * config.width * left_out * rows
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-6)
