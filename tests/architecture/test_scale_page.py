"""The table of docs/scale.md is the one that its command prints."""

from pathlib import Path

import pytest

from benchmarks import cost_model


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    cost_model.show({})
    _, table = capsys.readouterr().out.split("\n\n")
    assert table.strip() in page, "run `python -m benchmarks.cost_model` and copy its second table"


def test_an_input_can_be_replaced() -> None:
    usual = {cost.stage: cost for cost in cost_model.costs(cost_model.known({}))}
    other = {c.stage: c for c in cost_model.costs(cost_model.known({"train_mfu": 0.25}))}
    assert other["dalle"].gpu_hours == pytest.approx(2 * usual["dalle"].gpu_hours)
    assert other["curated_pairs"] == usual["curated_pairs"]
    # arXiv 2102.12092 at 6 FLOP a parameter and token, without recomputation: 4.1e22 FLOP.
    flop = usual["dalle"].gpu_hours * 3600 * 989e12 * 0.5 * 3 / 4
    assert flop == pytest.approx(4.1e22, rel=0.02)
    with pytest.raises(ValueError, match="no input is named 'price'"):
        cost_model.known({"price": 1.0})
