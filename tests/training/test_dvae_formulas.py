"""Numbers and formulas of sections 2 and 3 against independent computations."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from training.config import DVAEConfig
from training.dvae.validation import bound
from training.losses import logit_laplace_nll
from training.models.dvae import DVAE

SMALL = DVAEConfig(
    image_size=16, hidden=8, blocks_per_group=1, groups=3, vocabulary=32, decoder_init=8
)


@pytest.mark.parametrize("byte", [0, 3, 128, 255])
def test_the_density_over_x_is_the_papers_and_has_mass_one(byte: int) -> None:
    """Equation 2 by hand at a pixel value, and its integral over (0, 1) by quadrature."""
    mean, log_b = 0.4, -0.6
    b = math.exp(log_b)

    def density(x: float) -> float:
        return math.exp(-abs(math.log(x / (1 - x)) - mean) / b) / (2 * b * x * (1 - x))

    peak = 1 / (1 + math.exp(-mean))
    assert quad(density, 0, 1, points=[peak])[0] == pytest.approx(1, abs=1e-6)
    pixel = torch.full((1, 3, 1, 1), byte, dtype=torch.uint8)
    maps = torch.tensor([mean] * 3 + [log_b] * 3).view(1, 6, 1, 1)
    by_hand = -3 * math.log(density(0.8 * byte / 255 + 0.1))
    assert float(logit_laplace_nll(maps, pixel)) == pytest.approx(by_hand, rel=1e-5)


def test_a_floor_under_the_scale_bounds_the_density() -> None:
    pixel = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    mean = math.log(0.9 / 0.1)
    maps = torch.tensor([mean] * 3 + [-9.0] * 3).view(1, 6, 1, 1)
    floored = logit_laplace_nll(maps, pixel, -1.0)
    assert float(floored) == pytest.approx(3 * (math.log(2) - 1 + math.log(0.09)), rel=1e-4)
    assert float(logit_laplace_nll(maps, pixel)) < float(floored) - 20


def test_gumbel_softmax_draws_codes_with_the_posteriors_frequencies() -> None:
    """The hardest of a relaxed sample is a draw from softmax(logits), at any temperature."""
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    noise = torch.distributions.Gumbel(0.0, 1.0).sample((200_000, 4))
    relaxed = torch.softmax((logits + noise) / 0.25, dim=1)
    shares = torch.bincount(relaxed.argmax(1), minlength=4) / len(noise)
    torch.testing.assert_close(shares, torch.softmax(logits, 0), atol=5e-3, rtol=0)
    # Colder is harder: the mean of the greatest share goes to one.
    cold = torch.softmax((logits + noise) / (1 / 16), dim=1).amax(1).mean()
    assert relaxed.amax(1).mean() < cold < 1


def test_the_papers_model_costs_272_and_308_gflop() -> None:
    """Shapes only: fake tensors hold no numbers."""
    gflop = []
    with FakeTensorMode(), torch.no_grad():
        model = DVAE(DVAEConfig())
        inputs = torch.empty(1, 3, 256, 256), torch.empty(1, 8192, 32, 32)
        for part, x in zip((model.encoder, model.decoder), inputs, strict=True):
            with FlopCounterMode(display=False) as counter:
                part(x)
            gflop.append(counter.get_total_flops() / 1e9)
    assert gflop == [pytest.approx(272.3, abs=0.05), pytest.approx(308.0, abs=0.05)]


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_initial_weights_have_variance_one_over_fan_in(kernel: int) -> None:
    from training.models.dvae import convolution

    torch.manual_seed(0)
    conv = convolution(64, 96, kernel)
    assert float(conv.weight.detach().var()) * 64 * kernel**2 == pytest.approx(1, rel=0.05)
    assert float(conv.weight.detach().mean()) == pytest.approx(0, abs=4 / 64 / kernel)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_layers_around_the_relaxation_stay_fp32(half: torch.dtype) -> None:
    model = DVAE(SMALL)
    seen: dict[str, torch.dtype] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda _m, _i, out, name=name: seen.__setitem__(name, out.dtype)
            )
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    with torch.autocast("cpu", half):
        relaxed = model(images, 1.0, torch.zeros(1, 32, 4, 4))
    full = {name for name, dtype in seen.items() if dtype == torch.float32}
    assert full == {"encoder.output", "decoder.input"}
    assert {dtype for name, dtype in seen.items() if name not in full} == {half}
    assert relaxed.maps.dtype == relaxed.logits.dtype == torch.float32


def test_recomputed_activations_give_the_same_gradients_for_less_memory() -> None:
    torch.manual_seed(0)
    plain, saver = DVAE(SMALL), DVAE(SMALL)
    saver.load_state_dict(plain.state_dict())
    saver.recompute_activations()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    kept = {}
    for name, model in (("plain", plain), ("saver", saver)):
        saved: list[int] = []

        def pack(x: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            maps = model(images, 0.7, torch.zeros(2, 32, 4, 4)).maps
        kept[name] = sum(saved)
        logit_laplace_nll(maps, images).sum().backward()
    for one, other in zip(plain.parameters(), saver.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert kept["saver"] < 0.6 * kept["plain"]


def test_images_of_another_type_or_size_are_refused() -> None:
    model = DVAE(SMALL)
    with pytest.raises(ValueError, match=r"expected uint8 images, got torch\.float32"):
        model.tokens(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="crop their sides to multiples of 4"):
        model.tokens(torch.zeros(1, 3, 18, 16, dtype=torch.uint8))


def test_relaxed_and_true_bounds() -> None:
    """One code only: nothing to relax. Cold: mixtures are codes. Warm: they are not."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    model = DVAE(SMALL)
    torch.nn.init.normal_(model.decoder.input.weight, std=3.0)
    cold, warm = (bound(model, images, t, 6.6, -math.inf) for t in (1e-4, 1.0))
    assert cold.gap == pytest.approx(0, abs=1e-3)
    assert abs(warm.gap) > 1e-3
    assert warm.true == pytest.approx(cold.true)
    # beta / 192 of the paper: KL a code over the numbers that a code stands for, here 4 x 4 x 3.
    free = bound(model, images, 1.0, 0.0, -math.inf)
    assert warm.true - free.true == pytest.approx(6.6 * warm.kl_per_code / 48, rel=1e-4)
    assert free.true == pytest.approx(bound(model, images, 1.0, 0.0, -math.inf).true)
    assert np.isfinite(free.relaxed)
