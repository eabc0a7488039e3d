"""The graph with its runs and events in PostgreSQL; kill -9, alerts and backups there."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import dagster as dg
import psutil
import pytest
import requests
from dagster._daemon.types import DaemonHeartbeat
from deployment import (
    REPOSITORY,
    Site,
    free_port,
    make_site,
    processes,
    run_demo,
    still_running,
)
from pages import commands
from postgres_server import PROGRAMS, postgres_server
from sqlalchemy import make_url
from webhook import Webhook, webhook_server

from assets.demo.plan import PLAN
from assets.lib import daemon, runs
from assets.lib.model_slot import only_training

pytestmark = pytest.mark.slow

T = TypeVar("T")
SUCCESS, FAILURE, CANCELED, STARTED = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
    dg.DagsterRunStatus.STARTED,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A deployment on PostgreSQL on which the whole graph ran."""
    directory = tmp_path_factory.mktemp("postgres")
    with postgres_server() as server:
        site = make_site(directory, updates=2)
        site.environment["DALLE_POSTGRES_URL"] = server.get_uri()
        settings = site.home / "dagster.yaml"
        often = settings.read_text().replace(
            "poll_interval_seconds: 10", "poll_interval_seconds: 1"
        )
        settings.write_text(often)
        done = run_demo(site)
        assert done.returncode == 0, done.stdout + done.stderr
        yield site
        for process in processes(directory):
            process.kill()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with webhook_server() as found:
        yield found


@pytest.fixture
def endless(site: Site, webhook: Webhook) -> Site:
    """The same, with trainings that only a signal ends, and somebody who is told of failures."""
    more = {"DALLE_MAX_UPDATES": "1000000", "DALLE_ALERT_WEBHOOK": webhook.url}
    return Site(site.directory, site.environment | more)


def test_the_whole_graph(site: Site) -> None:
    with site.instance() as instance:
        keys = [dg.AssetKey(asset) for launch in PLAN for asset in launch.assets]
        events = instance.get_latest_materialization_events(keys)
        assert [key for key, event in events.items() if event is None] == []
        assert [run.status for run in instance.get_runs()] == [SUCCESS] * len(PLAN)
    assert list(site.home.rglob("*.db")) == [], "nothing is in SQLite files"
    assert still_running(site.directory, within=5) == []


def test_two_runs_at_once_and_a_killed_one(endless: Site, webhook: Webhook) -> None:
    with (
        endless.instance() as instance,
        daemon.running(instance, endless.home, endless.directory / "daemon.log"),
    ):
        with daemon._first_of_all_machines() as first:
            assert not first, "another machine would start a second daemon"
        training = runs.launch("train_dvae", {})
        _until(lambda: _observed(instance, training))
        beside = runs.launch("build_reference", {})
        _until(lambda: _status(instance, beside) is SUCCESS)
        assert _status(instance, training) is STARTED
        assert _claims(instance) == {training}
        _until(lambda: _watched(instance))
        os.kill(_process_of(instance, training), signal.SIGKILL)
        _until(lambda: _status(instance, training) is FAILURE)
        # The queue tries a crashed run again; it can only train if the slot came free.
        again = _until(lambda: _retry_of(instance, training))
        _until(lambda: _observed(instance, again))
        assert _claims(instance) == {again}
        told = _until(lambda: _told(webhook, training))
        assert (told["event"], told["job"]) == ("run failed", "train_dvae")
        runs.cancel(instance, [again])
        assert _status(instance, again) is CANCELED
    assert still_running(endless.directory, within=10) == []


def test_of_trainings_at_one_instant_one_goes_on(site: Site) -> None:
    @dg.job
    def nothing() -> None:
        pass

    def train(run_id: str) -> str:
        together.wait(60)
        try:
            with only_training(instance, run_id, "raced"):
                together.wait(60)
                return "went on"
        except dg.Failure:
            together.wait(60)
            return "refused"

    together = threading.Barrier(3)
    with site.instance() as instance, ThreadPoolExecutor(3) as pool:
        for _ in range(4):
            three = [instance.create_run_for_job(nothing, status=STARTED) for _ in range(3)]
            found = sorted(pool.map(train, [run.run_id for run in three]))
            # The end of the next test's daemon would wait for them.
            for run in three:
                instance.delete_run(run.run_id)
            assert found == ["refused", "refused", "went on"]


def test_the_ui_and_a_killed_daemon(endless: Site, webhook: Webhook) -> None:
    port = str(free_port())
    program = subprocess.Popen(
        [sys.executable, "-m", "assets.up"],
        cwd=REPOSITORY,
        env=endless.environment | {"DALLE_PORT": port},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with endless.instance() as instance:
            daemon_process = _until(lambda: _daemon(endless))
            training = runs.launch("train_dvae", {})
            assert _until(lambda: _runs_in_the_ui(port)) > len(PLAN)
            _until(lambda: _observed(instance, training))
            terminate = commands("operations.md", "dagster-graphql")
            terminate = terminate.replace(":3000", f":{port}").replace("ID", training)
            assert "TerminateRunSuccess" in _shell(endless, terminate)
            _until(lambda: _status(instance, training) is CANCELED)
            lost = runs.launch("train_dvae", {})
            _until(lambda: _observed(instance, lost))
            daemon_process.kill()
            assert "error: the Dagster daemon ended" in program.communicate(timeout=60)[1]
            assert program.returncode == 2
            assert still_running(endless.directory, within=5) == []
            assert _status(instance, lost) is FAILURE
            assert _claims(instance) == set()
            queued = runs.launch("build_reference", {})
            with daemon.running(instance, endless.home, endless.directory / "daemon.log") as lives:
                assert runs.follow(instance, queued, lambda event: None, lives) is SUCCESS
                again = _until(lambda: _retry_of(instance, lost))
                _until(lambda: _observed(instance, again))
                told = _until(lambda: _told(webhook, lost))
                assert "the Dagster daemon of this run" in str(told["text"])
    finally:
        program.kill()


def test_a_backup_as_the_page_makes_it(site: Site, tmp_path: Path) -> None:
    url = make_url(site.environment["DALLE_POSTGRES_URL"])
    restored = url.set(database="restored").render_as_string(hide_password=False)
    place = url.query.get("host", url.host)
    server = {"PGHOST": str(place), "PGUSER": url.username or "", "PGPORT": str(url.port or 5432)}
    backup = commands("deployment.md", "pg_dump")
    backup = backup.replace("postgresql://.../restored", shlex.quote(restored))
    listed = _shell(Site(site.directory, site.environment | server), backup, tmp_path)
    with site.instance() as instance:
        newest = [run.run_id for run in instance.get_runs(limit=3)]
    assert [run_id for run_id in newest if run_id not in listed] == []
    upgraded = Site(site.directory, site.environment | {"DALLE_POSTGRES_URL": restored})
    _shell(upgraded, "dagster instance migrate")


def test_another_machine_s_daemon_is_enough(site: Site) -> None:
    with site.instance() as instance:

        def beat() -> None:
            now = time.time()
            instance.add_daemon_heartbeat(DaemonHeartbeat(now, "SENSOR", "elsewhere", []))

        def beat_on() -> None:
            while not stop.wait(1):
                beat()

        stop = threading.Event()
        beat()
        elsewhere = threading.Thread(target=beat_on)
        elsewhere.start()
        try:
            with daemon.running(instance, site.home, site.directory / "none.log") as lives:
                assert lives()
                assert processes(site.directory) == []
        finally:
            stop.set()
            elsewhere.join()
            instance.wipe_daemon_heartbeats()


def _shell(site: Site, script: str, directory: Path = REPOSITORY) -> str:
    """What commands of a page print that end well."""
    path = f"{Path(sys.executable).parent}:{PROGRAMS}:{site.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=directory,
        env=site.environment | {"PATH": path, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _watched(instance: dg.DagsterInstance) -> bool:
    """Whether the alert's sensor has had its first tick, which only says where it begins."""
    states = instance.all_instigator_state()
    found = next((s for s in states if s.instigator_name == "failure_alert"), None)
    return found is not None and bool(getattr(found.instigator_data, "cursor", None))


def _told(webhook: Webhook, run_id: str) -> dict[str, object] | None:
    return next((told for told in webhook.told if told["run_id"] == run_id), None)


def _runs_in_the_ui(port: str) -> int:
    """Number of runs that the web server's GraphQL tells; 0 until it answers."""
    question = {"query": "{runsOrError{... on Runs{results{id}}}}"}
    try:
        answer = requests.post(f"http://127.0.0.1:{port}/graphql", json=question, timeout=30)
    except requests.ConnectionError:
        return 0
    return len(answer.json()["data"]["runsOrError"]["results"])


def _until(condition: Callable[[], T], within: float = 90) -> T:
    end = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.2)
    return value


def _status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def _observed(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the run's training has reported."""
    records = instance.fetch_observations(dg.AssetKey("dvae"), limit=1).records
    return bool(records) and records[0].run_id == run_id


def _claims(instance: dg.DagsterInstance) -> set[str]:
    """Runs that hold a slot of the pool of the GPU."""
    return {
        slot.run_id for slot in instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
    }


def _retry_of(instance: dg.DagsterInstance, run_id: str) -> str:
    found = instance.get_runs(filters=dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))
    return found[0].run_id if found else ""


def _daemon(site: Site) -> psutil.Process | None:
    words = ["-m", "dagster._daemon", "run"]
    for process in processes(site.directory):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:4] == words:
                return process
    return None


def _process_of(instance: dg.DagsterInstance, run_id: str) -> int:
    """Id of the process that works on a run, as the run's log gives it."""
    messages = " ".join(
        r.event_log_entry.message for r in instance.get_records_for_run(run_id).records
    )
    found = re.search(r"\(pid: (\d+)\)", messages)
    assert found is not None, messages
    return int(found[1])
