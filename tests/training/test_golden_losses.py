import json
from pathlib import Path

import golden_losses
import pytest


def test_the_demo_recipe_begins_with_its_golden_losses(tmp_path: Path) -> None:
    """What moves them on purpose writes them anew: `python tests/support/golden_losses.py`."""
    golden = json.loads(golden_losses.GOLDEN.read_text())
    found = golden_losses.losses(tmp_path)
    for name, values in found.items():
        assert len(values) == golden_losses.UPDATES
        assert values == pytest.approx(golden[name], rel=golden["relative_tolerance"])
    assert found["image"][-1] < 0.9 * found["image"][0]
