from pathlib import Path

import dagster as dg
import pytest

from assets.curate import CHECKS, curated_pairs, keep_rate
from assets.lib.settings import Settings
from pipelines import ledger
from pipelines.layout import Layout
from pipelines.ledger import Finished, Funnel


def finished(layout: Layout, batch: str, rows: int, kept: int) -> None:
    dropped = {"language": rows - kept} if rows > kept else {}
    funnel = Funnel(rows, kept, dropped)
    done = Finished("curated_pairs", "f", "c", kept, 0, funnel)
    directory = layout.dataset("curated_pairs", batch)
    Path(directory).mkdir(parents=True)
    Path(directory, "part-00000.parquet").touch()
    ledger.write_success(directory, done)


@pytest.mark.parametrize(
    ("rows", "kept", "warned"),
    [
        (10_000, 4000, False),
        (10_000, 4700, False),
        (10_000, 2500, True),
        (10_000, 6000, True),
        (10, 2, False),
        (10, 10, True),
        (0, 0, False),
    ],
)
def test_a_batch_that_keeps_more_or_fewer_than_usual_is_named(
    rows: int, kept: int, warned: bool, tmp_path: Path
) -> None:
    layout = Layout(str(tmp_path))
    for number, share in enumerate((39, 40, 41)):
        finished(layout, f"a{number}", 100, share)
    finished(layout, "b", rows, kept)
    problem = keep_rate(layout, "curated_pairs", "b")["problem"]
    assert (problem is not None) == warned
    if warned:
        assert problem.startswith("b: ")
        assert "usual are 40.0%" in problem


def test_the_first_batch_has_nothing_to_differ_from(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    finished(layout, "a", 100, 1)
    assert keep_rate(layout, "curated_pairs", "a") == {"batches compared": 0, "problem": None}


def test_the_check_warns_beside_the_batches_that_finished_earlier(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    settings = Settings(data_root=layout.root, recipe="demo", reference_images="/x", processes=1)
    check = next(c for c in CHECKS if "curated_pairs_keep_rate" in str(c.check_keys))

    def evaluation(batch: str) -> dg.AssetCheckEvaluation:
        result = dg.materialize(
            [curated_pairs, check],
            selection=dg.AssetSelection.checks(check),
            resources={"settings": settings},
            # As in the run of one batch, of which this is the last step.
            tags={"dagster/partition": batch},
        )
        assert result.success
        (found,) = result.get_asset_check_evaluations()
        assert found.severity is dg.AssetCheckSeverity.WARN
        return found

    # Its name says nothing of when a batch was crawled.
    for earlier, (batch, kept) in enumerate((("c", 400), ("d", 420), ("b", 100), ("a", 410))):
        finished(layout, batch, 1000, kept)
        found = evaluation(batch)
        assert found.metadata["batches compared"].value == earlier
        assert found.passed == (batch != "b")
        assert found.metadata["problems"].value == (batch == "b")
        if batch == "b":
            assert found.description == (
                "b: 10.0% of the pairs are kept, usual are 41.0%; the most frequent reason is "
                "language"
            )
