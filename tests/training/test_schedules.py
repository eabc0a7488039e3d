import dataclasses
import json
import math

import pytest
import torch

from training.config import Cosine, DALLETraining
from training.ema import Ema
from training.schedules import Plateau, cosine, step_size, warmup_factor

TRAINING = DALLETraining(updates=1000, batch=8, step_size=4.0, warmup=100, halvings=5)


def test_cosine_at_known_points() -> None:
    schedule = Cosine(1.0, 1 / 16, 150_000)
    assert cosine(schedule, 0) == 1
    assert cosine(schedule, 75_000) == pytest.approx((1 + 1 / 16) / 2)
    assert cosine(schedule, 50_000) == pytest.approx(1 / 16 + 15 / 16 * 0.75)
    assert cosine(schedule, 150_000) == pytest.approx(1 / 16)
    assert cosine(schedule, 3_000_000) == pytest.approx(1 / 16)


def test_cosine_rises_too_and_may_have_no_length() -> None:
    rising = Cosine(0.0, 6.6, 5000)
    values = [cosine(rising, update) for update in range(0, 5001, 100)]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, pytest.approx(6.6))
    assert cosine(Cosine(1.0, 2.0, 0), 1) == 2


def test_warmup_is_linear_and_never_zero() -> None:
    assert warmup_factor(TRAINING, 0) == pytest.approx(1 / 100)
    assert warmup_factor(TRAINING, 49) == pytest.approx(1 / 2)
    assert warmup_factor(TRAINING, 99) == warmup_factor(TRAINING, 5000) == 1
    assert warmup_factor(dataclasses.replace(TRAINING, warmup=0), 0) == 1


def test_a_plateau_halves_the_step_size_also_in_the_warmup() -> None:
    assert step_size(TRAINING, 500, 0) == 4
    assert step_size(TRAINING, 500, 5) == 4 / 32
    assert step_size(TRAINING, 49, 1) == 1


def test_cosine_decay_ends_where_the_halvings_would() -> None:
    training = dataclasses.replace(TRAINING, decay="cosine")
    sizes = [step_size(training, update, 3) for update in range(1000)]
    assert sizes[49] == pytest.approx(2)
    assert max(sizes) == pytest.approx(4)
    assert sizes.index(max(sizes)) in (99, 100)
    assert sizes[100:] == sorted(sizes[100:], reverse=True)
    assert sizes[-1] == pytest.approx(4 / 32, rel=1e-3)


def test_a_falling_loss_is_no_plateau() -> None:
    plateau = Plateau(window=10, patience=3)
    assert [plateau.update(10 * 0.999**i) for i in range(1000)][-1] == 0


def test_a_flat_loss_halves_once_per_patience() -> None:
    plateau = Plateau(window=10, patience=3)
    counts = [plateau.update(1.0) for _ in range(10 + 3 * 10 * 4)]
    # The first window is the best so far; then three windows without a gain for each halving.
    assert [counts.index(n) + 1 for n in (1, 2, 3, 4)] == [40, 70, 100, 130]


def test_noise_within_a_window_does_not_matter() -> None:
    plateau = Plateau(window=10, patience=3)
    for i in range(400):
        plateau.update(10 - i / 50 + (5 if i % 2 else -5))
    assert plateau.halvings == 0


def test_a_gain_starts_the_count_again() -> None:
    plateau = Plateau(window=1, patience=3, least=0.01)
    for loss in (1.0, 1.0, 1.0, 0.9, 0.9, 0.9):
        plateau.update(loss)
    assert plateau.halvings == 0
    assert plateau.update(0.895) == 1  # a gain of less than 1 % is none


@pytest.mark.parametrize("at", [1, 15, 39, 77])
def test_plateau_goes_on_from_its_state(at: int) -> None:
    losses = [3 - min(i, 60) / 30 + (i % 3) / 10 for i in range(150)]
    whole = Plateau(window=7, patience=2)
    expected = [whole.update(loss) for loss in losses]
    first, second = Plateau(window=7, patience=2), Plateau(window=7, patience=2)
    found = [first.update(loss) for loss in losses[:at]]
    second.load(json.loads(json.dumps(first.state())))
    found += [second.update(loss) for loss in losses[at:]]
    assert found == expected
    assert expected[-1] > 1
    assert second.state() == whole.state()


def test_ema_is_the_weighted_mean_of_the_weights() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay=0.5)
    values, expected = [3.0, 1.0, 4.0, 1.0, 5.0], 0.0
    for count, value in enumerate(values):
        model.weight.data.fill_(value)
        ema.update(count)
        # The first takes the weights as they are.
        decay = min(0.5, (1 + count) / (10 + count)) if count else 0
        expected = decay * expected + (1 - decay) * value
    assert float(ema.tensors()["weight"]) == pytest.approx(expected)
    assert float(model.weight.detach()) == 5  # the model itself is left alone


def test_ema_reaches_its_decay() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay=0.999)
    model.weight.data.fill_(0.0)
    ema.load({"weight": torch.ones(1, 1)})
    ema.update(1_000_000)
    assert float(ema.tensors()["weight"]) == pytest.approx(0.999)


def test_ema_goes_on_from_its_tensors() -> None:
    model = torch.nn.Linear(3, 2)
    ema, other = Ema(model, 0.9), Ema(torch.nn.Linear(3, 2), 0.9)
    model.weight.data.add_(1)
    ema.update(5)
    other.load(ema.tensors())
    assert all(torch.equal(ema.tensors()[k], v) for k, v in other.tensors().items())
    assert math.isclose(
        float(ema.tensors()["weight"].sum()), float(other.tensors()["weight"].sum())
    )
