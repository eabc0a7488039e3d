"""Cancelling a training in Dagster: every process ends, a checkpoint stays, the next goes on."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from deployment import FinishedSite, Site, make_site, processes, still_running

from assets.lib import daemon, runs
from assets.lib.settings import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture
def site(
    tmp_path: Path, finished_site: FinishedSite, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A deployment with pairs to train on, and far more updates than a test waits for."""
    site = make_site(tmp_path / "cancel", updates=1_000_000)
    for name in ("deduped_pairs", "crawl_batches"):
        shutil.copytree(finished_site.data / name, site.data / name)
    for name in [n for n in os.environ if n.startswith(("DAGSTER_", "DALLE_"))]:
        monkeypatch.delenv(name)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(REPOSITORY)
    yield site
    for process in processes(site.directory):
        process.kill()


def _wait_for_step(instance: dg.DagsterInstance, run_id: str, beyond: int) -> int:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert not run.is_finished, run.status
        for record in instance.fetch_observations(dg.AssetKey("dvae"), limit=1).records:
            if record.run_id == run_id:
                step = int(record.asset_observation.metadata["step"].value)
                if step > beyond:
                    return step
        time.sleep(0.2)
    raise AssertionError("training reported no step")


def test_cancel_and_go_on(site: Site) -> None:
    model = site.data / "models" / "dvae"
    with dg.DagsterInstance.get() as instance:
        with daemon.running(instance, site.home, site.directory / "daemon.log"):
            first = runs.launch("train_dvae", {})
            reached = _wait_for_step(instance, first, beyond=0)
            assert any("train_dvae" in " ".join(p.cmdline()) for p in processes(model))
            started = time.monotonic()
            instance.run_coordinator.cancel_run(first)
            assert still_running(model, within=60) == []
            runs.cancel(instance, [first])
            assert time.monotonic() - started < 60
            run = instance.get_run_by_id(first)
            assert run is not None
            assert run.status is dg.DagsterRunStatus.CANCELED
            assert list((model / "checkpoints").rglob("*")), "a checkpoint is left"
            assert not (model / "final" / "_SUCCESS").exists()
            second = runs.launch("train_dvae", {})
            _wait_for_step(instance, second, beyond=reached)
            runs.cancel(instance, [second])
        lines = (model / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps)), "the second launch went on, it did not start again"
    assert still_running(site.directory, within=10) == []
