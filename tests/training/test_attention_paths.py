"""Every path gives what the dense mask gives, forward and backward."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention

from training.models import attention as paths
from training.models.attention import Pattern, attention, dense_attention, reordered, split
from training.models.attention_masks import KINDS, attention_mask

# (text positions, grid, kernel): the kernel is wider than the grid, the paper's, and a grid whose
# positions do not fill whole tiles.
SHAPES = [(3, 4, 11), (6, 4, 3), (20, 13, 5)]
CPU = torch.device("cpu")
# A few units in the last place of fp32 and of bf16 (whose inputs and results are rounded to 2**-8).
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


def heads(pattern: Pattern, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, pattern.length, 3, 3, 8, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_banded_equals_dense_forward_and_backward(
    kind: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    pattern = Pattern(kind, *shape)
    given = heads(pattern, dtype)
    exact = given.detach().float().requires_grad_()
    found, expected = attention(given, pattern), dense_attention(*split(exact), pattern)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(found, given, weight.to(dtype))
    (reference,) = torch.autograd.grad(expected, exact, weight)
    pairs = zip((found, *split(gradient)), (expected, *split(reference)), strict=True)
    for one, other in pairs:
        assert one.dtype == dtype
        scale = float(other.abs().max())
        assert float((one.float() - other).abs().max()) <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_leave_out_most_of_what_the_mask_forbids(kind: str) -> None:
    pattern = Pattern(kind, 257, 32, 11)
    computed = sum(
        (t.queries.stop - t.queries.start) * (t.keys.stop - t.keys.start)
        for t in paths._tiles(pattern)
    )
    causal = pattern.length**2 / 2
    limit = {"row": 0.55, "column": 0.52, "convolution": 0.67, "causal": 1.1}[kind]
    assert computed / causal < limit


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_flex_attention_sees_the_same_mask(kind: str, shape: tuple[int, int, int]) -> None:
    """Forward only: FlexAttention has no backward on the CPU."""
    pattern = Pattern(kind, *shape)
    q, k, v = split(heads(pattern, torch.float32).detach())
    blocks = paths.block_mask(pattern, torch.device("cpu"))
    dense = create_mask(blocks.mask_mod, None, None, pattern.length, pattern.length, device="cpu")
    assert torch.equal(dense[0, 0], pattern.mask())
    found = flex_attention(q, k, v, block_mask=blocks)
    torch.testing.assert_close(found, dense_attention(q, k, v, pattern), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_exactly_the_keys_of_the_full_mask(kind: str) -> None:
    pattern = Pattern(kind, 257, 32, 11)
    torch.manual_seed(0)
    given = torch.randn(1, pattern.length, 3, 1, 4, requires_grad=True)
    out, mask = attention(given, pattern), pattern.mask()
    for query in (0, 256, 257, 257 + 5 * 32 + 7, pattern.length - 1):
        (gradient,) = torch.autograd.grad(out[0, 0, query].sum(), given, retain_graph=True)
        values = gradient[0, :, 2, 0].abs().sum(-1)
        assert torch.equal(values > 0, mask[query])


@pytest.mark.parametrize("kind", KINDS)
def test_flex_attention_in_bf16_and_its_blocks_at_full_size(kind: str) -> None:
    pattern = Pattern(kind, 257, 32, 11)
    blocks = paths.block_mask(pattern, CPU)
    # Every pair that the mask allows lies in a block that is computed.
    computed = blocks.to_dense()[0, 0].bool()
    size = blocks.BLOCK_SIZE[0]
    query, key = pattern.mask().nonzero(as_tuple=True)
    assert computed[query // size, key // size].all()
    small = Pattern(kind, *SHAPES[1])
    q, k, v = split(heads(small, torch.bfloat16).detach())
    found = flex_attention(q, k, v, block_mask=paths.block_mask(small, CPU))
    assert found.dtype == torch.bfloat16
    exact = dense_attention(q.float(), k.float(), v.float(), small)
    torch.testing.assert_close(found.float(), exact, atol=TOLERANCE[torch.bfloat16], rtol=0)


def test_blocks_of_transposed_columns_are_fewer_than_of_raster_ones() -> None:
    transposed = Pattern("column", 257, 32, 11)
    causal = Pattern("causal", 257, 32, 11)
    density = {
        p.kind: 100 - paths.block_mask(p, torch.device("cpu")).sparsity()
        for p in (transposed, causal)
    }
    assert density["column"] < 0.75 * density["causal"]


def test_reordered_states_come_back_with_their_gradients() -> None:
    pattern = Pattern("column", 3, 4, 3)
    x = torch.randn(2, pattern.length, 5, requires_grad=True)
    assert torch.equal(reordered(reordered(x, pattern), pattern), x)
    weight = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(reordered(x, pattern), x, weight)
    assert torch.equal(gradient, reordered(weight, pattern))


def test_training_may_follow_sampling() -> None:
    """Constants first made under inference mode are no inference tensors."""
    pattern = Pattern("row", 2, 5, 3)
    given = heads(pattern, torch.float32)
    with torch.inference_mode():
        attention(given, pattern)
    attention(given, pattern).sum().backward()


def test_the_layers_mask_is_the_streams_mask_reordered() -> None:
    for kind in KINDS:
        pattern = Pattern(kind, 3, 5, 3)
        order = pattern.place(torch.arange(pattern.length))
        whole = attention_mask(kind, 3, 5, 3)[:-1, :-1]
        assert torch.equal(pattern.mask(), whole[order][:, order])
