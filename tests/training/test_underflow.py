"""Gradients of falling size in fp16: what one scale for all blocks loses, and one a block keeps."""

from benchmarks.gradient_scales import compare, in_half
from training.dalle.gradient_scales import GREATEST


def test_a_scale_for_each_block_keeps_what_one_for_all_loses() -> None:
    alike = [compare(0, per_block)[1] for per_block in (False, True)]
    assert max(map(max, alike)) < 2e-3
    (zeros, errors), (kept_zeros, kept_errors) = (compare(40, p) for p in (False, True))
    assert zeros[-1] > 0.99
    assert errors[-1] > 0.9
    assert kept_zeros[-1] < 0.02
    assert kept_errors[-1] < 0.1
    assert errors[0] < 2e-3  # the first block alone decides about the one scale


def test_the_scales_are_the_greatest_that_fit() -> None:
    one, each = (in_half(40, per_block)[1] for per_block in (False, True))
    assert len(set(one)) == 1
    assert each[0] == one[0]
    assert each == sorted(each)
    assert each[-1] == GREATEST
