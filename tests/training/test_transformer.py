import math

import pytest
import torch
from torch import Tensor

from training.config import TransformerConfig
from training.losses import stream_loss
from training.models import transformer
from training.models.attention_masks import KINDS
from training.models.decoding import Decoder
from training.models.transformer import Transformer

TEXT, GRID, WORDS, CODES = 5, 4, 20, 12


def build(monkeypatch: pytest.MonkeyPatch | None = None, kind: str | None = None) -> Transformer:
    """A small model with lively weights; of one kind of layer, or of the paper's."""
    if kind is not None:
        assert monkeypatch is not None
        monkeypatch.setattr(transformer, "layer_kinds", lambda depth: (kind,) * depth)
    torch.manual_seed(0)
    config = TransformerConfig(depth=4, heads=2, head_width=8, convolution_kernel=3)
    model = Transformer(config, WORDS, TEXT, CODES, GRID).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(model: Transformer, batch: int = 3) -> Tensor:
    ids = torch.randint(0, WORDS, (batch, TEXT))
    return model.pad_text(ids, torch.tensor([TEXT, 3, 0][:batch]))


def test_each_text_position_has_its_own_pad_token() -> None:
    model = build()
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [0, 0, 0, 0, 0]])
    text = model.pad_text(ids, torch.tensor([5, 2, 0]))
    assert text.tolist() == [[1, 2, 3, 4, 5], [6, 7, 22, 23, 24], [20, 21, 22, 23, 24]]
    assert model.start_token == 25
    logits = model.logits(text, torch.zeros(3, GRID**2, dtype=torch.long))
    assert logits.text.shape == (3, TEXT, WORDS + TEXT)
    assert logits.image.shape == (3, GRID**2, CODES)


def test_the_future_does_not_leak() -> None:
    """The gradient of every prediction with respect to later inputs is exactly 0."""
    model = build()
    text, codes = padded(model, 1), torch.randint(0, CODES, (1, GRID**2))
    inputs = torch.cat((model.embed_text(text), model.embed_image(codes[:, :-1])), dim=1)
    inputs = inputs.detach().requires_grad_()
    states = model.states(inputs)
    for position in range(model.length):
        (gradient,) = torch.autograd.grad(
            states[0, position].square().sum(), inputs, retain_graph=True
        )
        norm = gradient[0].norm(dim=-1)
        assert not norm[position + 1 :].any()
        assert norm[position] > 0
        # Image positions see the whole text, through every kind of layer.
        assert (norm[: min(position, TEXT) + 1] > 0).all()


def test_padding_is_attended_to_and_learns_from_the_image() -> None:
    model = build()
    text = model.pad_text(torch.randint(0, WORDS, (1, TEXT)), torch.tensor([2]))
    codes = torch.randint(0, CODES, (1, GRID**2))
    model(text, codes).image.backward()
    gradient = model.text_embedding.weight.grad
    assert gradient is not None
    learnt = gradient.norm(dim=-1)[WORDS : WORDS + TEXT] > 0
    # The pads of positions with words are not there.
    assert learnt.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("changed", [0, 3, TEXT, TEXT + 7, TEXT + GRID**2 - 2])
def test_a_changed_token_changes_later_predictions_only(changed: int) -> None:
    model = build()
    stream = torch.cat((padded(model, 1), torch.randint(0, CODES, (1, GRID**2))), dim=1)
    other = stream.clone()
    other[0, changed] = (other[0, changed] + 1) % CODES
    one, two = (model.logits(s[:, :TEXT], s[:, TEXT:]) for s in (stream, other))
    text = (one.text != two.text).any(-1)[0]
    image = (one.image != two.image).any(-1)[0]
    differs = torch.cat((text, image))
    assert not differs[: changed + 1].any()
    assert differs[changed + 1]


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_cached_steps_give_the_uncached_logits(
    kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(monkeypatch, kind)
    text, codes = padded(model), torch.randint(0, CODES, (3, GRID**2))
    with torch.inference_mode():
        whole = model.logits(text, codes).image
        decoder = Decoder(model, 3, 1)
        steps = [decoder.begin(text)]
        steps += [decoder(codes[:, i], torch.tensor([i])) for i in range(GRID**2 - 1)]
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=0)


def test_a_fresh_model_predicts_uniformly() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(depth=4, heads=2, head_width=8), WORDS, TEXT, CODES, GRID)
    text, codes = padded(model), torch.randint(0, CODES, (3, GRID**2))
    with torch.no_grad():
        words, image = model(text, codes)
    assert float(image) == pytest.approx(math.log(CODES), rel=0.02)
    assert float(words) == pytest.approx(math.log(WORDS + TEXT), rel=0.02)
    assert float(stream_loss(words, image, 1 / 8)) == pytest.approx(
        float(words / 8 + image * 7 / 8)
    )
