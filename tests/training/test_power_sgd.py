"""PowerSGD between real processes: what it sends, what it gives back, what it keeps."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from many_processes import run_in
from torch import Tensor, nn

from training.config import TransformerConfig
from training.distributed.data_parallel import copies_mesh, replicate, shard
from training.distributed.power_sgd import PowerSGD, rank_for
from training.models.transformer import Transformer

SHARDS = 8
# Width, rank and compression in percent (appendix E); run with both a sixteenth as large.
TABLE = ((1920, 512, 83), (2688, 640, 85), (3968, 896, 86))
SMALLER = 16


def _sharded(rank: int, world: int) -> list[list[int]]:
    """What one of a machine's devices exchanges with its like for the gradients of a layer."""
    found = []
    for width, total_rank, _ in TABLE:
        config = TransformerConfig(depth=1, heads=1, head_width=width // SMALLER)
        model = Transformer(config, 8, 2, 8, 2)
        mesh = copies_mesh(torch.device("cpu"), world)
        shard(model, model.blocks, None, mesh["shards"])
        matrices = {n: p for n, p in model.blocks.named_parameters() if p.ndim == 2}
        for p in matrices.values():
            p.grad = torch.ones_like(p)
        alone = mesh["copies"].get_group()
        hook = PowerSGD(matrices, total_rank // SMALLER // world, group=alone)
        hook.exchange_shards(list(matrices.values()))
        found.append([hook.wire_bytes, hook.plain_bytes])
    return found


def _whole(rank: int, world: int) -> list[list[int]]:
    """What goes over the wire for a layer whose matrices no one has split."""
    found = []
    for width, total_rank, _ in TABLE:
        d = width // SMALLER
        shapes = [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)]
        matrices = {str(i): torch.randn(shape) for i, shape in enumerate(shapes)}
        hook = PowerSGD(matrices, total_rank // SMALLER)
        hook._exchange(list(matrices.values()), [torch.randn(shape) for shape in shapes])
        plain = hook.plain_bytes
        found.append([hook.take_wire_bytes(), plain, hook.take_wire_bytes()])
    return found


def _loaded(rank: int, world: int) -> dict[str, Tensor]:
    """Buffers after a checkpoint's sum was put into them, and their own sum."""
    hook = PowerSGD({"a": torch.zeros(6, 4)}, rank=2)
    hook.errors["a"].copy_(torch.arange(24.0).view(6, 4))
    hook.share_out()
    return {"own": hook.errors["a"], "sum": hook.summed_errors()["a"]}


def _in_four(rank: int, world: int) -> dict[str, Any]:
    return {"fit": _fit(rank, world), "loaded": _loaded(rank, world)}


def _in_two(rank: int, world: int) -> dict[str, Any]:
    kinds = ("full", "low rank", "overflow")
    found: dict[str, Any] = {kind: _exchange(rank, world, kind) for kind in kinds}
    found["whole"] = _whole(rank, world)
    return found | _in_four(rank, world)


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    """What each of two processes found."""
    return run_in(2, _in_two)


@pytest.fixture(scope="module")
def four() -> list[dict[str, Any]]:
    """Likewise of four."""
    return run_in(4, _in_four)


def test_shards_send_what_the_papers_table_says() -> None:
    [found, *others] = run_in(SHARDS, _sharded)
    assert others == [found] * (SHARDS - 1)
    for (width, rank, percent), (sent, plain) in zip(TABLE, found, strict=True):
        assert (rank_for(width), rank_for(width, SHARDS)) == (rank, rank // SHARDS)
        assert 1 - sent / plain == pytest.approx(1 - 5 * rank / (8 * width), abs=1e-9)
        assert round(100 * (1 - sent / plain)) == percent


def test_whole_matrices_are_squeezed_less(two: list[dict[str, Any]]) -> None:
    shares = []
    for (width, rank, _), (sent, plain, again) in zip(TABLE, two[0]["whole"], strict=True):
        assert 1 - sent / plain == pytest.approx(1 - 1.5 * rank / width, abs=1e-9)
        assert again == 0  # they were taken
        shares.append(round(100 * (1 - sent / plain)))
    assert shares == [60, 64, 66]


def test_a_stored_sum_is_the_sum_again_in_any_number_of_processes(
    two: list[dict[str, Any]], four: list[dict[str, Any]]
) -> None:
    for processes in (two, four):
        for found in (process["loaded"] for process in processes):
            stored = torch.arange(24.0).view_as(found["sum"])
            assert torch.equal(found["sum"], stored)
            assert torch.equal(found["own"], stored / len(processes))


def _exchange(rank: int, world: int, kind: str) -> dict[str, Tensor]:
    torch.manual_seed(rank)
    layer = nn.Linear(12, 20)
    other = nn.Linear(12, 12)
    hook = PowerSGD({"a": layer.weight, "b": other.weight}, rank=3)
    parameters = [layer.weight, layer.bias, other.weight]
    gradients = [torch.randn(p.shape) for p in parameters]
    if kind == "low rank":
        # The same column space in all processes: rank 3 holds all of it.
        shared = torch.randn(20, 3, generator=torch.Generator().manual_seed(9))
        gradients[0] = shared @ torch.randn(3, 12)
    if kind == "overflow" and rank == 1:
        gradients[0][0, 0] = torch.inf
    exact = [g.clone() for g in gradients]
    hook._exchange(parameters, gradients)
    for g in exact:
        dist.all_reduce(g)
    found = {f"exact{i}": g for i, g in enumerate(exact)}
    found |= {f"got{i}": g for i, g in enumerate(gradients)}
    return found | {f"sum_{k}": v for k, v in hook.summed_errors().items()} | hook.errors


def test_what_is_not_sent_stays_in_the_error_buffers(two: list[dict[str, Any]]) -> None:
    for found in (process["full"] for process in two):
        assert torch.allclose(found["got1"], found["exact1"])  # a bias is not compressed
        for gradient, error in (("0", "a"), ("2", "b")):
            exact, got = found[f"exact{gradient}"], found[f"got{gradient}"]
            assert not torch.allclose(got, exact, atol=0.1)
            assert torch.allclose(got + found[f"sum_{error}"], exact, atol=1e-4)


def test_a_gradient_of_low_rank_comes_through_whole(two: list[dict[str, Any]]) -> None:
    for found in (process["low rank"] for process in two):
        assert torch.allclose(found["got0"], found["exact0"], atol=1e-4)


def test_a_non_finite_gradient_skips_and_costs_only_the_broken_buffer(
    two: list[dict[str, Any]],
) -> None:
    first, second = (process["overflow"] for process in two)
    for found in (first, second):
        assert not found["got0"].isfinite().any()  # the update will be skipped
        assert found["got2"].isfinite().all()
    assert (second["a"] == 0).all()  # was itself non-finite
    assert first["a"].isfinite().all()
    assert first["a"].abs().max() > 0.1  # was good, and is kept whole


def _fit(rank: int, world: int) -> list[list[float]]:
    return [_losses(rank, world, compress) for compress in (False, True)]


def _losses(rank: int, world: int, compress: bool) -> list[float]:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2}
    wrapped = replicate(model, PowerSGD(matrices, rank=4) if compress else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    teacher = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(150):
        x = torch.randn(16, 16, generator=draw)
        loss = (wrapped(x) - torch.tanh(x @ teacher / 4)).square().mean()
        optimizer.zero_grad()
        (loss / world).backward()
        optimizer.step()
        mean = loss.detach() / world
        dist.all_reduce(mean)
        losses.append(float(mean))
    return losses


@pytest.mark.parametrize("world", [2, 4])
def test_training_loses_little(
    world: int, two: list[dict[str, Any]], four: list[dict[str, Any]]
) -> None:
    found: list[Any] = [process["fit"] for process in (two if world == 2 else four)]
    assert all(other == found[0] for other in found)
    start = found[0][0][0]
    plain, compressed = (sum(losses[-10:]) / 10 for losses in found[0])
    assert plain < start / 5
    # Within a tenth of what the uncompressed run gained.
    assert compressed - plain < 0.1 * (start - plain)
