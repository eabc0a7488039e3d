import dataclasses

import pytest
import torch

from training.config import Recipe
from training.errors import InputError
from training.models.dvae import DVAE
from training.models.transformer import Transformer, block_parameters
from training.recipes import RECIPES, recipe


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def transformer(recipe: Recipe) -> Transformer:
    with torch.device("meta"):
        return Transformer(
            recipe.transformer,
            text_vocabulary=recipe.text.vocabulary,
            text_length=recipe.text.length,
            image_vocabulary=recipe.dvae.vocabulary,
            grid=recipe.dvae.grid,
        )


def dvae(recipe: Recipe) -> DVAE:
    with torch.device("meta"):
        return DVAE(recipe.dvae)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_two_models(name: str) -> None:
    found = recipe(name)
    assert found.name == name
    assert parameters(transformer(found)) > 0
    assert parameters(dvae(found)) > 0
    assert found.dvae_training.batch <= found.dvae_training.updates
    assert found.dalle_training.warmup < found.dalle_training.updates


def test_recipes_are_equal_from_call_to_call_and_frozen() -> None:
    assert recipe("demo") == recipe("demo")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe("demo").name = "other"  # type: ignore[misc]


def test_the_paper_has_12_billion_parameters_in_its_blocks() -> None:
    paper = recipe("paper_12b")
    model = transformer(paper)
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    assert matrices == 12 * 3968**2 * 64 == 12_092_178_432
    assert block_parameters(model) == pytest.approx(12 * 3968**2 * 64, rel=1e-3)
    assert model.length == 256 + 1024
    # A pad token for each text position is known and predicted (section 2.2).
    assert model.text_head.out_features == 16_384 + 256
    assert model.image_head.out_features == 8192


def test_the_preliminary_scale_has_1_2_billion() -> None:
    assert block_parameters(transformer(recipe("cc3m_1b"))) == pytest.approx(1.2e9, rel=0.02)


def test_the_papers_dvae_is_the_released_one() -> None:
    model = dvae(recipe("paper_12b"))
    assert parameters(model.encoder) == 53_786_240
    assert parameters(model.decoder) == 43_829_766
    for group in (*model.encoder.groups, *model.decoder.groups):
        assert [group[0].post_gain, group[1].post_gain] == [1 / 64, 1 / 64]


def test_the_papers_numbers() -> None:
    """Appendices A.2 and B.2 of arXiv 2102.12092."""
    paper = recipe("paper_12b")
    dvae, dalle = paper.dvae_training, paper.dalle_training
    assert (paper.dvae.grid, paper.dvae.vocabulary, paper.text.dropout) == (32, 8192, 0.1)
    assert (dvae.updates, dvae.batch, dvae.ema) == (3_000_000, 512, 0.999)
    assert dataclasses.astuple(dvae.step_size) == (1e-4, 1.25e-6, 1_200_000)
    assert dataclasses.astuple(dvae.temperature) == (1, 1 / 16, 150_000)
    assert dataclasses.astuple(dvae.kl_weight) == (0, 6.6, 5_000)
    assert dataclasses.astuple(dvae.adamw) == (0.9, 0.999, 1e-4, 1e-8, float("inf"))
    assert [round(f * paper.dvae.image_size) for f in dvae.resize] == [288, 384]
    assert dvae.flip
    assert not dvae.codebook_warmup
    assert (dvae.encoder_rate, dvae.clip, dvae.precision) == (1.0, float("inf"), "auto")
    assert dvae.least_log_scale == float("-inf")
    assert (dalle.updates, dalle.batch, dalle.step_size, dalle.warmup) == (
        *(430_000, 1024, 4.5e-4),
        5000,
    )
    assert (dalle.decay, dalle.halvings, dalle.clip) == ("plateau", 5, 4.0)
    assert dataclasses.astuple(dalle.adamw) == (0.9, 0.96, 4.5e-2, 1e-8, 5.0)
    assert (dalle.ema, dalle.ema_every, dalle.text_weight) == (0.99, 25, 1 / 8)
    assert (paper.transformer.depth, paper.transformer.heads) == (64, 62)
    assert (paper.transformer.head_width, paper.transformer.convolution_kernel) == (64, 11)


def test_an_unknown_recipe_names_those_that_exist() -> None:
    with pytest.raises(InputError, match="'huge'; the recipes are demo, small, cc3m_1b, paper_12b"):
        recipe("huge")
