import collections

import pytest
import torch

from training.models.attention_masks import KINDS, attention_mask, image_mask, layer_kinds

# Image to image on a grid of 4 x 4, kernel 3: a line is a query, x what it attends to.
DRAWN = {
    "row": """
        x...............
        xx..............
        xxx.............
        xxxx............
        xxxxx...........
        .xxxxx..........
        ..xxxxx.........
        ...xxxxx........
        ....xxxxx.......
        .....xxxxx......
        ......xxxxx.....
        .......xxxxx....
        ........xxxxx...
        .........xxxxx..
        ..........xxxxx.
        ...........xxxxx
    """,
    "column": """
        x...............
        .x..............
        ..x.............
        ...x............
        x...x...........
        .x...x..........
        ..x...x.........
        ...x...x........
        x...x...x.......
        .x...x...x......
        ..x...x...x.....
        ...x...x...x....
        x...x...x...x...
        .x...x...x...x..
        ..x...x...x...x.
        ...x...x...x...x
    """,
    # Offsets 0, 1 in its own row; 3, 4, 5 in the row above, round the edge of the grid.
    "convolution": """
        x...............
        xx..............
        .xx.............
        x.xx............
        xx.xx...........
        xxx.xx..........
        .xxx.xx.........
        ..xxx.xx........
        ...xxx.xx.......
        ....xxx.xx......
        .....xxx.xx.....
        ......xxx.xx....
        .......xxx.xx...
        ........xxx.xx..
        .........xxx.xx.
        ..........xxx.xx
    """,
    "causal": "\n".join("x" * (i + 1) + "." * (15 - i) for i in range(16)),
}
TEXT = 6


def drawn(kind: str) -> torch.Tensor:
    lines = DRAWN[kind].split()
    return torch.tensor([[c == "x" for c in line] for line in lines])


@pytest.mark.parametrize("kind", KINDS)
def test_image_part_is_as_drawn(kind: str) -> None:
    assert torch.equal(image_mask(kind, 4, kernel=3), drawn(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_whole_mask_of_six_text_tokens_and_a_small_image(kind: str) -> None:
    mask = attention_mask(kind, TEXT, 4, kernel=3)
    assert mask.shape == (22, 22)
    assert torch.equal(mask[:TEXT, :TEXT], torch.ones(TEXT, TEXT, dtype=torch.bool).tril())
    assert not mask[:TEXT, TEXT:].any()
    assert mask[TEXT:, :TEXT].all()
    assert torch.equal(mask[TEXT:, TEXT:], drawn(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sees_the_future_and_everything_sees_itself(kind: str) -> None:
    mask = attention_mask(kind, 256, 32)
    assert not mask.triu(1).any()
    assert mask.diagonal().all()


def test_row_has_33_keys_and_ends_one_row_above() -> None:
    mask = image_mask("row", 32)
    position = 17 * 32 + 5
    assert mask[position].sum() == 33
    assert mask[position].nonzero().flatten().tolist() == list(range(position - 32, position + 1))
    assert (position - 32) // 32 == 16  # the last one is its own column of the row above


def test_column_has_its_column_in_every_row_so_far() -> None:
    mask = image_mask("column", 32)
    position = 17 * 32 + 5
    assert mask[position].nonzero().flatten().tolist() == [row * 32 + 5 for row in range(18)]


def test_convolution_has_61_keys_in_the_interior() -> None:
    mask = image_mask("convolution", 32)
    row, column = 17, 15
    seen = {(int(p) // 32, int(p) % 32) for p in mask[row * 32 + column].nonzero()}
    above = {(row - dy, column + dx) for dy in range(1, 6) for dx in range(-5, 6)}
    assert seen == above | {(row, column - dx) for dx in range(6)}
    assert len(seen) == 61
    # At the border of the grid the pattern goes on in the neighbouring row: still 61.
    assert mask[17 * 32].sum() == 61


def test_the_order_of_the_papers_64_layers() -> None:
    kinds = layer_kinds(64)
    assert collections.Counter(kinds) == {"row": 47, "column": 16, "convolution": 1}
    assert kinds[:6] == ("row", "column", "row", "row", "row", "column")
    assert kinds[-1] == "convolution"
    assert layer_kinds(1) == ("convolution",)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown attention kind 'diagonal', expected one of row"):
        image_mask("diagonal", 4)
    with pytest.raises(ValueError, match="kernel must be odd and positive, got 4"):
        image_mask("convolution", 4, kernel=4)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        layer_kinds(0)
