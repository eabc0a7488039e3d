"""A scheduled retraining on a new version, to its promotion; and one that is refused."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from deployment import (
    REPOSITORY,
    Site,
    make_site,
    processes,
    run_demo,
    still_running,
)
from webhook import webhook_server

from assets.lib import daemon, runs
from assets.lib.settings import Settings
from pipelines.layout import Layout
from pipelines.publish.manifest import read_manifest
from training.promotion import log, versions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A deployment on which the graph ran, with pairs enough that some are not trained on."""
    site = make_site(tmp_path_factory.mktemp("trained"), updates=2)
    site.environment["DALLE_DEMO_LIMIT"] = "400"
    done = run_demo(site)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


@pytest.fixture
def site(tmp_path: Path, trained: Site) -> Iterator[Site]:
    """A copy of the deployment, with its history, that trains once more."""
    site = make_site(tmp_path / "retrain", updates=3)
    shutil.copytree(trained.home, site.home, dirs_exist_ok=True)
    shutil.copytree(trained.data, site.data)
    site.environment["DALLE_RETRAIN_START"] = "promoted"
    site.environment["DALLE_RETRAIN_CRON"] = "* * * * *"
    site.environment["DALLE_CRAWL_TAKEDOWN"] = str(tmp_path / "takedown.txt")
    (tmp_path / "takedown.txt").write_text("# nothing yet\n")
    yield site
    for process in processes(site.directory):
        process.kill()


def _command(site: Site, *words: str) -> None:
    program = [sys.executable, "-m", *words]
    done = subprocess.run(
        program, cwd=REPOSITORY, env=site.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _promote(site: Site) -> log.Entry:
    where = ("--data-root", str(site.data), "--by", "Ada")
    limit = ("--least-perplexity", "1", "--reason", "so few updates")
    _command(site, "training.promote", "promote", *where, *limit)
    return _promoted(site)


def _promoted(site: Site) -> log.Entry:
    entry = log.current(Layout(str(site.data)))
    assert entry is not None
    return entry


def _ended(instance: dg.DagsterInstance, run_id: str, within: float) -> dg.DagsterRun:
    end = time.monotonic() + within
    while time.monotonic() < end:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.is_finished:
            return run
        time.sleep(0.3)
    raise AssertionError(f"run {run_id} did not end")


def _publish(instance: dg.DagsterInstance, site: Site) -> str:
    run = _ended(instance, runs.launch("publish_dataset", {}), within=120)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    return read_manifest(Layout(str(site.data)).token_dataset).version


def _status(instance: dg.DagsterInstance, asset: str) -> StaleStatus:
    from assets.definitions import defs

    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return resolver.get_status(dg.AssetKey(asset))


def _scheduled_run(instance: dg.DagsterInstance, within: float) -> str:
    end = time.monotonic() + within
    while time.monotonic() < end:
        for run in instance.get_runs(filters=dg.RunsFilter(job_name="retrain")):
            assert run.tags["dagster/schedule_name"] == "weekly_retrain"
            return run.run_id
        time.sleep(0.3)
    raise AssertionError("no tick of the schedule launched a run")


def test_a_tick_retrains_on_a_new_version_and_promotes(site: Site, tmp_path: Path) -> None:
    first = _promote(site)
    with site.instance() as instance:
        with daemon.running(instance, site.home, site.directory / "daemon.log"):
            assert _status(instance, "dalle") is StaleStatus.FRESH
            assert _publish(instance, site) == first.model.dataset
            assert _status(instance, "dalle") is StaleStatus.FRESH, "the same publication"
            tokens = read_manifest(Layout(str(site.data)).token_dataset)
            uid = pq.read_table(tokens.url(tokens.token_files[0]), columns=["uid"])["uid"][0]
            (tmp_path / "takedown.txt").write_text(uid.as_py().hex() + "\n")
            version = _publish(instance, site)
            assert version != first.model.dataset
            assert _status(instance, "dalle") is StaleStatus.STALE
            _command(site, "dagster", "schedule", "start", "weekly_retrain", "-w", "workspace.yaml")
            run_id = _scheduled_run(instance, within=150)
            run = _ended(instance, run_id, within=300)
            failures = [runs.failure(e) for e in instance.all_logs(run_id)]
            assert run.status is dg.DagsterRunStatus.SUCCESS, [f for f in failures if f]
            assert _status(instance, "dalle") is StaleStatus.FRESH
        entry = _promoted(site)
        assert (entry.number, entry.who) == (first.number + 1, f"run {run_id}")
        assert entry.model.dataset == version
        assert entry.model.warm_start == first.model.dalle_sha256
        record = instance.get_latest_materialization_event(dg.AssetKey("promoted_model"))
        assert record is not None
        metadata = record.asset_materialization.metadata
        assert [row["number"] for row in _rows(metadata["history"])] == [2, 1]
        assert metadata["dataset"].value == version
    assert still_running(site.directory, within=10) == []


def _rows(table: dg.TableMetadataValue) -> list[dict[str, object]]:
    return [dict(record.data) for record in table.records]


def test_a_regressed_model_is_refused_and_somebody_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import data_root

    from assets.alerts import VARIABLE, failure_alert
    from assets.definitions import defs

    first = _promote(site)
    layout = Layout(str(site.data))
    data_root.spoil(layout, 0.5)
    with site.instance() as instance, webhook_server() as webhook:
        monkeypatch.setenv(VARIABLE, webhook.url)
        selection = dg.AssetSelection.assets("model_comparison", "promoted_model")
        job = dg.define_asset_job("judge", selection)
        whole = dg.Definitions.merge(defs, dg.Definitions(jobs=[job]))
        result = whole.resolve_job_def("judge").execute_in_process(
            instance=instance,
            resources={"settings": Settings.from_environment()},
            raise_on_error=False,
        )
        assert not result.success
        context = dg.build_run_status_sensor_context(
            "failure_alert",
            next(e for e in result.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE),
            instance,
            result.dagster_run,
        ).for_run_failure()
        failure_alert(context)
    assert _promoted(site) == first
    versions.verify(layout, first.model.version)
    (told,) = webhook.told
    assert told["event"] == "promotion refused"
    assert told["run_id"] == result.run_id
    assert "nats per image token" in str(told["text"])
    assert list(told["failed_checks"]) == ["promotion_no_regression"]
