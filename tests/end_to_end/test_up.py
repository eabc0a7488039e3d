"""`make up`: the UI answers, and one signal stops everything."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from deployment import REPOSITORY, free_port, make_site, still_running

pytestmark = pytest.mark.slow


def test_up_and_down(tmp_path: Path) -> None:
    site = make_site(tmp_path, updates=1)
    port, reports = str(free_port()), site.environment["DALLE_REPORT_PORT"]
    report = site.data / "evaluation/model=0123456789ab/report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<!doctype html><title>a report</title>")
    program = subprocess.Popen(
        [sys.executable, "-m", "assets.up"],
        cwd=REPOSITORY,
        env=site.environment | {"DALLE_PORT": port},
    )
    try:
        assert "dagster_webserver_version" in _answer(f"http://127.0.0.1:{port}/server_info")
        served = _answer(f"http://127.0.0.1:{reports}/model=0123456789ab/report.html")
        assert served == report.read_text()
        question = "{workspaceOrError{...on Workspace{locationEntries{name loadStatus}}}}"
        entries = requests.post(
            f"http://127.0.0.1:{port}/graphql", json={"query": question}, timeout=30
        ).json()["data"]["workspaceOrError"]["locationEntries"]
        assert entries == [{"name": "dalle", "loadStatus": "LOADED"}]
    finally:
        program.send_signal(signal.SIGINT)
        status = program.wait(60)
    assert status == 0
    assert still_running(site.directory, within=5) == []


def _answer(url: str) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            return requests.get(url, timeout=5).text
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError("no answer within a minute")
