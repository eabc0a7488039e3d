import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.config import DVAEConfig
from training.dvae.codebook import perplexity
from training.dvae.codebook_init import initialise_codebook, k_means
from training.losses import categorical_kl_to_uniform, logit_laplace_nll
from training.models.dvae import DVAE, Block, images_to_input, map_pixels, unmap_pixels

SMALL = DVAEConfig(
    image_size=16, hidden=8, blocks_per_group=1, groups=3, vocabulary=32, decoder_init=8
)


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.fixture
def model() -> DVAE:
    torch.manual_seed(0)
    return DVAE(SMALL)


def test_shapes(model: DVAE) -> None:
    batch = images(3)
    gumbel = torch.zeros(3, 32, 4, 4)
    relaxed = model(batch, 0.5, gumbel)
    assert relaxed.maps.shape == (3, 6, 16, 16)
    assert relaxed.logits.shape == (3, 32, 4, 4)
    codes = model.tokens(batch)
    assert codes.shape == (3, 4, 4)
    assert torch.equal(codes, relaxed.logits.argmax(1))
    restored = model.reconstruct(codes)
    assert restored.shape == (3, 3, 16, 16)
    assert restored.dtype == torch.uint8


@pytest.mark.parametrize(("groups", "grid"), [(1, 32), (2, 16), (4, 4)])
def test_each_group_but_the_first_halves_the_image(groups: int, grid: int) -> None:
    config = dataclasses.replace(SMALL, image_size=32, groups=groups)
    assert config.grid == grid
    codes = DVAE(config).tokens(images(1, 32))
    assert codes.shape == (1, grid, grid)


def test_an_image_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size 18 is not a multiple of 4"):
        dataclasses.replace(SMALL, image_size=18)


def test_from_codes_is_the_decoder_of_one_hot_codes(model: DVAE) -> None:
    torch.nn.init.normal_(model.decoder.input.bias)  # a bias of 0 would hide its omission
    codes = torch.randint(0, 32, (2, 4, 4))
    one_hot = F.one_hot(codes, 32).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(model.decoder.from_codes(codes), model.decoder(one_hot))


def test_a_cold_relaxation_is_the_code_itself(model: DVAE) -> None:
    """At temperature 0 and without noise the training pass decodes the argmax."""
    batch = images()
    maps = model(batch, 1e-5, torch.zeros(2, 32, 4, 4)).maps
    torch.testing.assert_close(maps, model.decoder.from_codes(model.tokens(batch).clone()))


def test_a_block_adds_its_residual_with_the_gain() -> None:
    block = Block(8, 8, (3, 3, 3, 1), post_gain=1 / 64)
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(block(x), x + block.res_path(x) / 64)
    wider = Block(8, 16, (3, 3, 3, 1), post_gain=1 / 64)
    torch.testing.assert_close(wider(x), wider.id_path(x) + wider.res_path(x) / 64)


def test_weights_begin_normal_with_the_papers_variance(model: DVAE) -> None:
    weight = model.encoder.input.weight
    assert float(weight.detach().std()) == pytest.approx(1 / math.sqrt(3 * 49), rel=0.1)
    assert not model.encoder.input.bias.any()


def test_pixels_survive_map_and_unmap() -> None:
    x = torch.arange(256) / 255
    mapped = map_pixels(x)
    assert (float(mapped[0]), float(mapped[-1])) == pytest.approx((0.1, 0.9))
    assert torch.equal((unmap_pixels(mapped) * 255).round(), torch.arange(256.0))
    assert torch.equal(unmap_pixels(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(images_to_input(torch.arange(256, dtype=torch.uint8)), mapped)


@pytest.mark.parametrize(("mean", "log_b"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.7)])
def test_the_density_integrates_to_one(
    mean: float, log_b: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exp(-nll) over (0, 1); substituting x = sigmoid(u) keeps the borders harmless."""
    u = torch.linspace(-25, 25, 400_001, dtype=torch.float64)
    x = torch.sigmoid(u)
    monkeypatch.setattr("training.losses.images_to_input", lambda _: x[:, None, None, None])
    maps = torch.tensor([mean, log_b], dtype=torch.float64).view(1, 2, 1, 1).expand(len(x), 2, 1, 1)
    density = torch.exp(-logit_laplace_nll(maps, torch.empty(0)))
    integral = np.trapezoid((density * x * (1 - x)).numpy(), u.numpy())
    assert integral == pytest.approx(1, abs=1e-4)


def test_the_likelihood_is_a_sum_over_pixels_and_channels() -> None:
    batch, maps = images(2), torch.randn(2, 6, 16, 16)
    x, mean, b = images_to_input(batch), maps[:, :3], maps[:, 3:].exp()
    density = torch.exp(-(torch.logit(x) - mean).abs() / b) / (2 * b * x * (1 - x))
    torch.testing.assert_close(logit_laplace_nll(maps, batch), -density.log().sum((1, 2, 3)))


def test_kl_to_the_uniform_prior() -> None:
    logits = torch.randn(3, 32, 4, 4, dtype=torch.float64) * 3
    q = torch.distributions.Categorical(logits=logits.permute(0, 2, 3, 1))
    uniform = torch.distributions.Categorical(probs=torch.full((3, 4, 4, 32), 1 / 32).double())
    explicit = torch.distributions.kl_divergence(q, uniform).sum((1, 2))
    torch.testing.assert_close(categorical_kl_to_uniform(logits), explicit)
    assert float(categorical_kl_to_uniform(torch.zeros(1, 32, 4, 4))) == pytest.approx(0, abs=1e-5)
    certain = F.one_hot(torch.zeros(1, 4, 4, dtype=torch.long), 32).permute(0, 3, 1, 2) * 1e4
    nats = float(categorical_kl_to_uniform(certain.float()))
    assert nats == pytest.approx(16 * math.log(32), rel=1e-5)


def test_perplexity() -> None:
    assert perplexity(torch.tensor([[3, 3], [3, 3]]), 8) == (pytest.approx(1), 1)
    assert perplexity(torch.arange(8), 8) == (pytest.approx(8), 8)
    assert perplexity(torch.tensor([0, 0, 0, 1]), 8) == (pytest.approx(1.7548, rel=1e-3), 2)


def test_k_means_finds_separate_clusters() -> None:
    torch.manual_seed(0)
    true = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = (true[:, None] + 0.1 * torch.randn(4, 50, 2)).flatten(0, 1)
    centres, distortion = k_means(points, 4)
    nearest = torch.cdist(true, centres).min(1)
    assert nearest.indices.unique().numel() == 4
    assert float(nearest.values.max()) < 0.2
    assert distortion < 0.1


def test_the_codebook_begins_in_use(model: DVAE) -> None:
    """Random 1x1 convolutions use a part of the codes; clustered features use nearly all."""
    colours = torch.rand(40, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    batch = (colours * 255).to(torch.uint8)
    before, _ = perplexity(model.tokens(batch), 32)
    initialise_codebook(model, batch)
    after, used = perplexity(model.tokens(batch), 32)
    assert used == 32
    assert after > max(20, before)
