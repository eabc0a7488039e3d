"""The Dagster UI in a real browser, on the deployment on which the whole graph ran."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import dagster as dg
import dagster_ui
import pytest
from browser import browser
from deployment import REPOSITORY, FinishedSite, free_port, still_running
from playwright.sync_api import ConsoleMessage, Page

from pipelines.schemas import Stage

pytestmark = pytest.mark.slow

# What each page shows behind its links; a plot and a sheet at the least where there is training.
PICTURES = {
    "fetched_pairs": 1,
    "curated_pairs": 2,
    "coco_hash_index": 1,
    "deduped_pairs": 2,
    "token_dataset": 1,
    "dvae": 2,
    "dalle": 1,
    "samples": 1,
    "evaluation": 1,  # and the report, which is text; 64 pictures leave none to compare
}
# Figures of a materialisation, and a loss that was observed while a model was trained.
PLOTTED = {
    "fetched_pairs": "success share",
    "curated_pairs": "kept share",
    "evaluation": "train_nats_image",
    "dvae": "loss",
}
# Of an asset's inline pictures, encoded; the whole event stays below what the log can carry.
MOST_METADATA_BYTES = 200_000


@pytest.fixture(scope="module")
def url(finished_site: FinishedSite) -> Iterator[str]:
    port = str(free_port())
    program = subprocess.Popen(
        [sys.executable, "-m", "assets.up"],
        cwd=REPOSITORY,
        env=finished_site.environment | {"DALLE_PORT": port},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        while "Dagster UI" not in program.stdout.readline():
            assert program.poll() is None
        yield f"http://127.0.0.1:{port}"
    finally:
        program.terminate()
        program.wait(60)
    assert still_running(finished_site.directory, within=10) == []


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Page]:
    with browser() as opened:
        page = opened.new_context(viewport=dagster_ui.VIEW).new_page()
        _wait_for_server(page, url)
        yield page


def _wait_for_server(page: Page, url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            page.goto(f"{url}/server_info")
            return
        time.sleep(0.5)
    raise AssertionError("the web server does not answer")


def _is_error(message: ConsoleMessage) -> bool:
    # The UI's own library logs a deprecation of its own as a warning, on every Dagster site.
    return message.type == "error" or (
        message.type == "warning" and "go.apollo.dev" not in message.text
    )


def test_the_graph_opens_in_stage_order_without_a_warning(page: Page, url: str) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if _is_error(m) else None)
    assert dagster_ui.open_lineage(page, url) == [str(stage) for stage in Stage]
    page.goto(f"{url}/locations")
    page.get_by_text(re.compile("^Loaded$")).first.wait_for(timeout=60_000)
    assert page.get_by_text(re.compile("warning|failed|error", re.IGNORECASE)).count() == 0
    assert problems == []


@pytest.mark.parametrize("asset", PICTURES)
def test_a_page_shows_its_pictures(page: Page, url: str, asset: str) -> None:
    dagster_ui.open_events(page, url, asset)
    sizes = dagster_ui.pictures(page)
    assert len(sizes) >= PICTURES[asset]
    assert all(width > 80 and height > 40 for width, height in sizes)


@pytest.mark.parametrize(("asset", "figure"), PLOTTED.items())
def test_a_page_plots_its_figures(page: Page, url: str, asset: str, figure: str) -> None:
    dagster_ui.wait_for_plot(page, url, asset, figure)


def test_no_event_carries_too_much(finished_site: FinishedSite) -> None:
    with finished_site.instance() as instance:
        for asset in PICTURES:
            record = instance.fetch_materializations(dg.AssetKey(asset), limit=1).records[0]
            size = len(dg.serialize_value(record.event_log_entry))
            assert size < MOST_METADATA_BYTES, asset


def _launched(page: Page, site: FinishedSite) -> dg.DagsterRun:
    """The run that a click launched, as it ended."""
    page.get_by_text("Launched run").wait_for(timeout=60_000)
    with site.instance() as instance:
        run = instance.get_runs(limit=1)[0]
        end = time.monotonic() + 180
        while not run.is_finished and time.monotonic() < end:
            time.sleep(0.5)
            run = instance.get_run_by_id(run.run_id) or run
        assert run.status is dg.DagsterRunStatus.SUCCESS
        for key in run.asset_selection or ():
            newest = instance.fetch_materializations(key, limit=1).records[0]
            assert newest.run_id == run.run_id
    return run


def test_materialise_by_the_button(page: Page, url: str, finished_site: FinishedSite) -> None:
    page.goto(f"{url}/assets/bpe_tokenizer")
    page.get_by_role("button", name="Materialize").first.click()
    run = _launched(page, finished_site)
    assert run.asset_selection == {dg.AssetKey("bpe_tokenizer")}
    page.get_by_text("Latest materialization").wait_for(timeout=60_000)


def test_build_a_batch_by_the_button(page: Page, url: str, finished_site: FinishedSite) -> None:
    page.goto(f"{url}/locations/dalle/jobs/build_dataset")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition").click()
    page.get_by_text("demo", exact=True).first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    run = _launched(page, finished_site)
    assert run.job_name == "build_dataset"
    assert run.tags["dagster/partition"] == "demo"
