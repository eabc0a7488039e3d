"""AdamW with a clipped variance, gradient norms, averaged weights off the training path."""

import time

import pytest
import torch
from torch import Tensor, nn

from training.config import AdamWConfig
from training.dalle.optimizer import ClippedAdamW, clip_by_norm, global_norm, parameter_groups
from training.ema import Ema, OffloadedEma

CONFIG = AdamWConfig(0.9, 0.96, 4.5e-2, variance_clip=5.0)


def reference(weights: Tensor, gradients: list[Tensor], rate: float, clip: float) -> Tensor:
    """The update rule, written out in fp64: the running variance never exceeds the clip."""
    w, m, v = weights.double(), torch.zeros_like(weights).double(), torch.zeros_like(weights)
    v = v.double()
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double()
        w = w * (1 - rate * CONFIG.weight_decay)
        m = 0.9 * m + 0.1 * g
        v = (0.96 * v + 0.04 * g**2).clamp(max=clip)
        w = w - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.96**t)).sqrt() + 1e-8)
    return w.float()


def run(gradients: list[Tensor], config: AdamWConfig = CONFIG) -> tuple[nn.Linear, ClippedAdamW]:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3, bias=False)
    optimizer = ClippedAdamW(layer, config)
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.update(1e-2, float(gradient.norm()))
    return layer, optimizer


@pytest.mark.parametrize(("size", "binds"), [(0.1, False), (4.0, True)])
def test_the_variance_is_clipped_before_it_is_used(size: float, binds: bool) -> None:
    torch.manual_seed(1)
    gradients = [torch.randn(3, 5) * size for _ in range(40)]
    layer, optimizer = run(gradients)
    start = run([])[0].weight.detach()
    clipped, free = (reference(start, gradients, 1e-2, c) for c in (5.0, float("inf")))
    assert torch.allclose(layer.weight, clipped, atol=2e-6)
    assert torch.allclose(clipped, free, atol=2e-6) is not binds
    variance = optimizer.state[layer.weight]["exp_avg_sq"]
    assert float(variance.max()) <= 5.00001
    assert (float(variance.max()) > 4.9) is binds


@pytest.mark.parametrize(("greatest", "times"), [(3.2, 0), (12.0, 1)])
def test_it_is_lowered_only_where_an_element_may_exceed_the_clip(
    greatest: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last gradient's norm, 12.4 or more, says that one may."""
    calls: list[ClippedAdamW] = []
    lower = ClippedAdamW._lower_variance

    def counted(optimizer: ClippedAdamW) -> None:
        calls.append(optimizer)
        lower(optimizer)

    monkeypatch.setattr(ClippedAdamW, "_lower_variance", counted)
    last = torch.full((3, 5), 3.2)
    last[0, 0] = greatest
    gradients = [torch.full((3, 5), 0.1), last]
    layer, _ = run(gradients)
    assert len(calls) == times
    monkeypatch.setattr(ClippedAdamW, "_greatest", lambda _: float("inf"))
    always, _ = run(gradients)
    assert len(calls) == times + 1
    assert torch.equal(layer.weight, always.weight)
    start = run([])[0].weight.detach()
    assert torch.allclose(layer.weight, reference(start, gradients, 1e-2, 5.0), atol=2e-6)


def test_without_a_clip_it_is_torchs_adamw() -> None:
    gradients = [torch.randn(3, 5) for _ in range(5)]
    layer, _ = run(gradients)
    other = run([])[0]
    optimizer = torch.optim.AdamW(
        other.parameters(), lr=1e-2, betas=(0.9, 0.96), weight_decay=4.5e-2, fused=True
    )
    for gradient in gradients:
        other.weight.grad = gradient
        optimizer.step()
    assert torch.equal(layer.weight, other.weight)


def test_a_loaded_variance_is_bounded_by_itself() -> None:
    gradients = [torch.full((3, 5), 4.0)] * 30
    layer, optimizer = run(gradients)
    optimizer._bound = 0.0
    optimizer.measure_bound()
    assert optimizer._bound == pytest.approx(5)
    layer.weight.grad = torch.full((3, 5), 4.0)
    optimizer.update(1e-2, float(layer.weight.grad.norm()))
    whole, _ = run([*gradients, gradients[0]])
    assert torch.equal(layer.weight, whole.weight)


def test_gains_biases_and_embeddings_do_not_decay() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    decayed, plain = parameter_groups(model)
    assert [p.shape for p in decayed] == [(2, 3)]
    assert [p.shape for p in plain] == [(4, 3), (3,), (3,), (2,)]


def test_the_norm_is_that_of_all_gradients_together_and_is_clipped() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    norm = float(global_norm(gradients))
    assert norm == pytest.approx(5)
    assert clip_by_norm(gradients, norm, 6.0) == norm
    assert float(gradients[1]) == 4
    assert clip_by_norm(gradients, norm, 2.5) == 2.5
    assert [g.flatten().tolist() for g in gradients] == [[1.5, 0.0], [2.0]]


DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.mark.parametrize("device", DEVICES)
def test_the_offloaded_average_is_the_average(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(300, 200).to(device)
    plain, offloaded = Ema(model, 0.9), OffloadedEma(model, 0.9)
    lerp = OffloadedEma._lerp

    def slow(self: OffloadedEma, weights: list[Tensor], count: int) -> None:
        time.sleep(0.05)
        lerp(self, weights, count)

    monkeypatch.setattr(OffloadedEma, "_lerp", slow)
    for count in range(4):
        plain.update(count)
        offloaded.update(count)
        offloaded.release()
        # The optimiser goes on while the thread still works on the copy.
        with torch.no_grad():
            model.weight.add_(1)
    for name, average in plain.tensors().items():
        assert torch.allclose(average.cpu(), offloaded.tensors()[name], atol=1e-6)
    assert offloaded.tensors()["weight"].device.type == "cpu"
