from pathlib import Path

import pytest
from token_corpus import write_batch

from pipelines import ledger
from pipelines.layout import Layout
from pipelines.ledger import Funnel, LedgerError
from pipelines.publish.funnel import funnel
from pipelines.schemas import Stage


def test_steps_up_to_the_first_unfinished(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    assert funnel(layout, "a") == []
    write_batch(layout, "a", range(10))
    steps = funnel(layout, "a")
    assert [step.stage for step in steps] == [Stage.CRAWL, Stage.CRAWL, Stage.CURATE, Stage.DEDUPE]
    assert steps[-1] == (Stage.DEDUPE, "deduped_pairs", Funnel(13, 10, {"near_duplicate": 3}))


def test_rows_lost_between_stages_are_an_error(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    done = write_batch(layout, "a", range(10))
    lost = ledger.Finished(
        **{**vars(done), "dataset": "curated_pairs", "funnel": Funnel(16, 12, {"x": 4})}
    )
    ledger.write_success(layout.dataset("curated_pairs", "a"), lost)
    with pytest.raises(LedgerError, match="curated_pairs kept 12 rows, but deduped_pairs read 13"):
        funnel(layout, "a")
