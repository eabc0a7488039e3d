"""A file dropped into the inbox of a running deployment becomes a finished run."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from deployment import FinishedSite, Site, make_site, processes, still_running

from assets.lib import daemon
from assets.lib.settings import REPOSITORY
from pipelines import ledger
from pipelines.demo.server import DemoServer
from pipelines.demo.web import build_web
from pipelines.layout import Layout

pytestmark = pytest.mark.slow


@pytest.fixture
def site(
    tmp_path: Path, finished_site: FinishedSite, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    site = make_site(tmp_path / "inbox", updates=1)
    shutil.copytree(finished_site.data / "coco_hash_index", site.data / "coco_hash_index")
    site.environment["DALLE_CRAWL_INBOX"] = str(tmp_path / "dropped")
    site.environment["DALLE_CRAWL_CONTACT"] = "tests@example.org"
    for name in [n for n in os.environ if n.startswith(("DAGSTER_", "DALLE_"))]:
        monkeypatch.delenv(name)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(REPOSITORY)
    yield site
    for process in processes(site.directory):
        with contextlib.suppress(Exception):
            process.kill()


def _finished_run(instance: dg.DagsterInstance, within: float) -> dg.DagsterRun:
    end = time.monotonic() + within
    while time.monotonic() < end:
        run = next(iter(instance.get_runs()), None)
        if run is not None and run.is_finished:
            return run
        time.sleep(0.2)
    raise AssertionError("the inbox led to no finished run")


def test_a_dropped_list_is_collected(site: Site, tmp_path: Path) -> None:
    inbox = tmp_path / "dropped" / "our-list"
    inbox.mkdir(parents=True)
    log = tmp_path / "access.log"
    server = DemoServer(str(tmp_path / "web"), 0, str(log))
    build_web(str(tmp_path / "web"), server.url, 64)
    with (
        dg.DagsterInstance.get() as instance,
        server,
        daemon.running(instance, site.home, site.directory / "daemon.log"),
    ):
        lines = [f"{server.url}/{n}.png,a red bicycle by wall number {n}\n" for n in range(20)]
        file = inbox / "first.csv"
        file.write_text("url,caption\n" + "".join(lines))
        # As `cp -p` leaves it; a fresh file settles for a minute first.
        os.utime(file, (time.time() - 3600,) * 2)
        run = _finished_run(instance, within=120)
        assert run.status is dg.DagsterRunStatus.SUCCESS
        batch = run.tags["dagster/partition"]
        assert instance.get_dynamic_partitions("crawl_batch") == [batch]
        fetched = ledger.require_success(Layout(str(site.data)).dataset("fetched_pairs", batch))
        # A list from outside may not make the crawler ask this machine's own network.
        assert fetched.funnel.dropped == {"unsafe_address": 20}
        assert not log.exists() or log.read_text() == ""
    assert still_running(site.directory, within=10) == []
