"""fp16 with one scale per block, bf16, and recomputed blocks, against plain fp32."""

import math

import pytest
import torch
from resblocks import Residual, backward
from torch import Tensor, nn

from training.dalle.gradient_scales import FIRST, GREATEST, LEAST, WINDOW, GradientScales
from training.dalle.precision import Precision, recompute_blocks, run_blocks_in

CPU = torch.device("cpu")


def in_half(**shape: int) -> tuple[Residual, GradientScales]:
    model = Residual(**shape)
    scales = run_blocks_in(Precision.FP16_PER_BLOCK, model.blocks, 1, CPU)
    assert scales is not None
    return model, scales


def by_block(model: Residual) -> list[list[Tensor]]:
    return [[p.grad for p in block.parameters() if p.grad is not None] for block in model.blocks]


def overflowed(model: Residual) -> list[bool]:
    return [not all(bool(g.isfinite().all()) for g in group) for group in by_block(model)]


def test_gradients_are_those_of_fp32() -> None:
    plain = Residual()
    model, scales = in_half()
    assert backward(model) == pytest.approx(backward(plain), rel=1e-3)
    assert float(model.blocks[0].up.weight.grad.abs().max()) > 1  # still scaled
    scales.divide_(by_block(model))
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=2e-2, atol=2e-4), name
    assert not scales.filtered.any()


def test_products_are_fp16_and_gains_biases_and_identity_are_fp32() -> None:
    model, _ = in_half()
    seen: dict[str, torch.dtype] = {}

    def watch(name: str, tensor: Tensor) -> None:
        tensor.register_hook(lambda g: seen.__setitem__(name, g.dtype))

    up, block = model.blocks[1].up, model.blocks[1]
    up.register_forward_hook(lambda _m, _i, out: watch("product", out))
    block.register_forward_hook(lambda _m, inputs, _o: watch("identity", inputs[0]))
    up.bias.register_hook(lambda g: seen.__setitem__("bias", g.dtype))
    backward(model)
    assert seen == {"product": torch.float16, "identity": torch.float32, "bias": torch.float32}
    # fp16 has no 4,097.
    model.zero_grad()
    out = up(torch.zeros(4097, 16, dtype=torch.float16))
    out.backward(torch.ones_like(out))
    assert (up.bias.grad == 4097).all()


def test_an_overflow_in_one_block_lowers_that_scale_alone() -> None:
    model, scales = in_half()
    scales.values[2] = scales.values[2] * 2.0**40  # beyond fp16: this block's gradients are Inf
    scales.tensor[2] = scales.values[2]
    backward(model)
    bad = [a or b for a, b in zip(overflowed(model), scales.filtered.tolist(), strict=True)]
    assert bad == [False, False, True, False]
    # Earlier blocks get exactly what the identity path around the block brings.
    around = Residual()
    around.blocks[2].register_full_backward_hook(lambda *_: (torch.zeros(32, 16),))
    backward(around)
    scales.values[2] = 1.0
    scales.divide_(by_block(model))
    for i in (0, 1):
        for p, q in zip(around.blocks[i].parameters(), model.blocks[i].parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=2e-2, atol=2e-4)


def test_an_inf_that_only_the_filter_sees_counts() -> None:
    model, scales = in_half()

    def plant(gradient: Tensor) -> Tensor:
        planted = gradient.clone()
        planted[0, 0] = math.inf
        return planted

    # Behind the norm's own parameters, in front of the filter.
    model.blocks[1].norm.register_forward_pre_hook(lambda _m, x: x[0].register_hook(plant) and None)
    backward(model)
    assert overflowed(model) == [False] * 4
    assert scales.filtered.tolist() == [False, True, False, False]
    scales.update(scales.filtered.tolist())
    assert [v < FIRST for v in scales.values] == [False, True, False, False]
    assert not scales.filtered.any()


def test_scales_grow_fall_and_wait() -> None:
    scales = GradientScales(2, replicas=4)
    assert scales.values == [4 * FIRST] * 2
    for _ in range(1000):
        scales.update([False, False])
    assert scales.values == pytest.approx([4 * 2 * FIRST] * 2)
    before = scales.values[1]
    for _ in range(WINDOW):
        scales.update([False, True])
    assert scales.values[1] == pytest.approx(before / math.sqrt(2))
    scales.update([False, True])
    assert scales.values[1] == pytest.approx(before / 2)
    for _ in range(20 * WINDOW):
        scales.update([False, True])
    assert scales.values[1] == 4 * LEAST
    for _ in range(20_000):
        scales.update([False, False])
    assert scales.values == [4 * GREATEST] * 2
    assert scales.tensor.tolist() == scales.values


def test_scales_go_on_with_another_number_of_replicas() -> None:
    first = GradientScales(2, replicas=1)
    for i in range(200):
        first.update([i == 100, False])
    second = GradientScales(2, replicas=2)
    second.load(first.state())
    assert second.values == pytest.approx([2 * v for v in first.values])
    first.update([True, True])
    second.update([True, True])
    # The first scale was divided 100 updates ago, and is not divided again.
    assert second.values == pytest.approx([2 * v for v in first.values])
    assert first.state()["divided"] == second.state()["divided"] == [100, 200]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16_PER_BLOCK])
def test_recomputing_changes_no_gradient_and_keeps_less(precision: Precision) -> None:
    def measured(recompute: bool) -> tuple[list[Tensor], int]:
        model = Residual(depth=6)
        if recompute:
            recompute_blocks(model.blocks)
        run_blocks_in(precision, model.blocks, 1, CPU)
        parameters = {p.data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in parameters:
                kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            backward(model)
        return [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())

    (plain, kept), (recomputed, less) = measured(False), measured(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert less < kept / 2


def test_bf16_keeps_the_identity_path_and_the_parameters_in_fp32() -> None:
    model = Residual()
    run_blocks_in(Precision.BF16, model.blocks, 1, CPU)
    dtypes: list[torch.dtype] = []
    nn.Module.register_forward_hook(
        model.blocks[2], lambda _m, i, o: dtypes.extend((i[0].dtype, o.dtype))
    )
    plain = Residual()
    assert backward(model) == pytest.approx(backward(plain), rel=1e-2)
    assert dtypes == [torch.float32, torch.bfloat16]
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize(
    ("precision", "device", "products"),
    [
        (Precision.BF16, "cuda", "high"),
        (Precision.BF16, "cpu", "highest"),
        (Precision.FP32, "cuda", "highest"),
        (Precision.FP16_PER_BLOCK, "cpu", "highest"),
    ],
)
def test_tf32_is_allowed_in_bf16_on_cuda_alone(
    precision: Precision, device: str, products: str
) -> None:
    try:
        run_blocks_in(precision, Residual().blocks, 1, torch.device(device))
        assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_default_is_fp32_on_a_cpu() -> None:
    assert Precision.AUTO.on(CPU) is Precision.FP32
    assert Precision("bf16").on(CPU) is Precision.BF16
