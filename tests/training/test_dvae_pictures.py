"""Listing 1 of the paper's appendix A.2, and what a batch's pictures depend on."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from training.config import Cosine, DVAEConfig, DVAETraining
from training.dvae.images import augment, training_batch

CONFIG = DVAEConfig(image_size=64, hidden=8)
TRAINING = DVAETraining(1, 1, Cosine(1, 1, 1), Cosine(0, 1, 1), Cosine(1, 1, 1))


class Draws:
    """Records the ranges that are drawn from, and answers with their ends."""

    def __init__(self, top: bool, flip: bool):
        self.top, self.flip = top, flip
        self.ranges: list[tuple[int, int]] = []

    def integers(self, low: int, high: int | None = None, size: int | None = None) -> object:
        low, high = (0, low) if high is None else (low, high)
        self.ranges += [(low, high - 1)] * (size or 1)
        value = high - 1 if self.top else low
        return value if size is None else np.full(size, value)

    def random(self) -> float:
        return 0.0 if self.flip else 0.9


def picture(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "sides"),
    [((250, 200), (72, 96)), ((80, 100), (72, 80)), ((72, 72), (72, 72)), ((66, 70), (66, 66))],
)
def test_the_square_is_scaled_to_between_9_and_12_eighths(
    size: tuple[int, int], sides: tuple[int, int]
) -> None:
    """t ~ U{min(s, 9/8 S) ... min(s, 12/8 S)}; both ends can be drawn."""
    draws = Draws(top=True, flip=False)
    out = augment(picture(*size), CONFIG, TRAINING, draws)  # type: ignore[arg-type]
    side = min(size)
    t = sides[1]
    assert draws.ranges == [
        (0, size[0] - side),
        (0, size[1] - side),
        sides,
        (0, t - 64),
        (0, t - 64),
    ]
    assert (out.shape, out.dtype) == ((64, 64, 3), np.uint8)
    # The corner that was drawn: the crop ends where the picture does.
    assert out[-1, -1, 0] == pytest.approx(size[0] - 1, abs=side / t)
    assert out[-1, -1, 1] == pytest.approx(size[1] - 1, abs=side / t)


def test_reduction_is_the_mean_over_the_area() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (144, 144, 3), dtype=np.uint8)
    draws = Draws(top=False, flip=False)
    out = augment(Image.fromarray(noise), CONFIG, TRAINING, draws)  # type: ignore[arg-type]
    means = noise.reshape(72, 2, 72, 2, 3).mean((1, 3))[:64, :64]
    # Pillow rounds twice, after each direction.
    assert np.abs(out - means).max() <= 1


def test_half_of_the_pictures_are_mirrored() -> None:
    plain, mirrored = (
        augment(picture(72, 72), CONFIG, TRAINING, Draws(False, flip))  # type: ignore[arg-type]
        for flip in (False, True)
    )
    assert np.array_equal(mirrored, plain[:, ::-1])
    unflipped = augment(
        picture(72, 72),
        CONFIG,
        replace(TRAINING, flip=False),
        Draws(False, True),  # type: ignore[arg-type]
    )
    assert np.array_equal(unflipped, plain)
    reds = [
        augment(picture(72, 72), CONFIG, TRAINING, np.random.default_rng(i))[0, :, 0].astype(int)
        for i in range(200)
    ]
    assert 70 < sum(red[0] > red[-1] for red in reds) < 130


def table(rows: list[tuple[int, int]]) -> pa.Table:
    buffer = io.BytesIO()
    picture(100, 90).save(buffer, "PNG")
    return pa.table(
        {
            "uid": [n.to_bytes(16, "little") for n, _ in rows],
            "image": [buffer.getvalue()] * len(rows),
            "epoch": pa.array([epoch for _, epoch in rows], pa.int32()),
        }
    )


def test_what_is_drawn_depends_on_seed_epoch_and_uid_alone() -> None:
    one = training_batch(table([(1, 0), (2, 0), (1, 1)]), CONFIG, TRAINING)
    again = training_batch(table([(1, 1), (1, 0)]), CONFIG, TRAINING)
    assert torch.equal(one[[2, 0]], again)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], one[2])
    other = training_batch(table([(1, 0)]), CONFIG, replace(TRAINING, seed=1))
    assert not torch.equal(one[:1], other)
