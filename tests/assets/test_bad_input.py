"""Every wrong input: one sentence that says what to do, and an exit status that is not 0."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.crawl import image_text_candidates
from assets.lib import home
from assets.lib.home import UserError
from assets.lib.settings import REPOSITORY, CrawlSettings, Settings
from assets.lib.stages import crawl_configs
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind
from pipelines.crawl.config import DomainLimit
from pipelines.runners import Engine


def _run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "DALLE_"))}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def dagster_home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", folder)
    return folder


@pytest.mark.parametrize(
    ("value", "said"),
    [("", "is not set"), ("dagster_home", "relative path"), ("/nowhere/at/all", "no dagster.yaml")],
)
def test_dagster_home(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setenv("DAGSTER_HOME", value)
    with pytest.raises(UserError, match=said):
        home.dagster_home()


@pytest.mark.parametrize("program", ["assets.demo", "assets.up"])
def test_programs_end_with_one_sentence(program: str) -> None:
    done = _run(program, DAGSTER_HOME="relative")
    assert done.returncode == 2
    assert done.stderr.startswith("error: DAGSTER_HOME is the relative path")
    assert done.stderr.count("\n") == 1


def test_busy_port(dagster_home: Path, tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        done = _run(
            "assets.demo",
            DAGSTER_HOME=str(dagster_home),
            DALLE_DEMO_PORT=port,
            DALLE_DEMO_DIRECTORY=str(tmp_path / "demo"),
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"port {port} is busy" in done.stderr
        up = _run("assets.up", DAGSTER_HOME=str(dagster_home), DALLE_PORT=port)
        assert up.returncode == 2
        assert "DALLE_PORT" in up.stderr


def test_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DALLE_DATA_ROOT"):
        home.require_space(tmp_path / "not" / "there" / "yet", 1e9)
    home.require_space(tmp_path, 1e-6)


@pytest.mark.parametrize("value", ["two", "-1", "1.5", "0"])
def test_numbers_in_the_environment(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DALLE_PROCESSES", value)
    with pytest.raises(UserError, match=r"DALLE_PROCESSES is .* whole number, at least 1"):
        Settings.from_environment()
    monkeypatch.setenv("DALLE_PROCESSES", "3")
    assert Settings.from_environment().processes == 3


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DALLE_CRAWL_AGENT", "agent/1.0", "without a version"),
        ("DALLE_CRAWL_CONCURRENCY", "0", "at least 1"),
        ("DALLE_CRAWL_DOMAIN_CONNECTIONS", "four", "whole number"),
        ("DALLE_CRAWL_DOMAIN_DELAY", "-1", "number of seconds"),
        ("DALLE_CRAWL_DOMAIN_DELAY", "nan", "number of seconds"),
        ("DALLE_CRAWL_DOMAIN_LIMITS", "cdn.example=16", "DOMAIN=CONNECTIONS/SECONDS"),
        ("DALLE_CRAWL_PROCESSES", "0", "at least 1"),
        ("DALLE_BEAM_OPTIONS", "--a=b parallelism=8", "'parallelism=8'; write every option as"),
        ("DALLE_BEAM_OPTIONS", '--a="b', "close its quotes"),
        ("DALLE_TRAINING_OPTIONS", "shard", "'shard'; write every option as"),
        ("DALLE_EVALUATION_OPTIONS", "--coco '/data", "close its quotes"),
        ("DALLE_DATA_ROOT", "data", "give an absolute path or a URL"),
        ("DALLE_REFERENCE_IMAGES", "./coco", "give an absolute path or a URL"),
        ("DALLE_CRAWL_INBOX", "inbox", "give an absolute path or a URL"),
        ("DALLE_CRAWL_TAKEDOWN", "takedown.txt", "give an absolute path or a URL"),
    ],
)
def test_settings_of_the_crawl(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=variable) as error:
        Settings.from_environment()
    assert said in str(error.value)


def test_the_card_says_what_the_operator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_RECIPE", "small")
    plain = Settings.from_environment().stages().publish
    monkeypatch.setenv("DALLE_DATASET_TITLE", "Our pairs")
    monkeypatch.setenv("DALLE_DATASET_LICENCES", "CC0")
    said = Settings.from_environment().stages().publish
    assert said == dataclasses.replace(plain, title="Our pairs", licences="CC0")
    monkeypatch.setenv("DALLE_DATASET_DESCRIPTION", "Drawings of animals.")
    assert Settings.from_environment().stages().publish.description == "Drawings of animals."


def test_data_may_lie_behind_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_DATA_ROOT", "s3://bucket/dalle/")
    assert Settings.from_environment().layout.root == "s3://bucket/dalle"


def test_wrong_settings_end_the_programs(dagster_home: Path) -> None:
    for program in (["assets.up"], ["assets.batches", "add", "mine", "https://example.org/"]):
        done = _run(*program, DAGSTER_HOME=str(dagster_home), DALLE_CRAWL_DOMAIN_DELAY="soon")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("error: DALLE_CRAWL_DOMAIN_DELAY is 'soon'")


def test_settings_reach_the_crawl_and_the_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    takedown = tmp_path / "takedown.txt"
    given = {
        "CRAWL_CONTACT": "me@example.org",
        "CRAWL_AGENT": "our-bot",
        "CRAWL_TAKEDOWN": str(takedown),
        "CRAWL_CONCURRENCY": "128",
        "CRAWL_DOMAIN_CONNECTIONS": "2",
        "CRAWL_DOMAIN_DELAY": "1.5",
        "CRAWL_DOMAIN_LIMITS": "cdn.example=16/0.05 b.example=1/3",
        "CRAWL_PROCESSES": "7",
        "BEAM_RUNNER": "DaskRunner",
        "TRAINING_OPTIONS": "--shard=machine --micro-batch=4",
        "BEAM_OPTIONS": "--dask_client_address=host:8786 '--name=a b'",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"DALLE_{name}", value)
    settings = Settings.from_environment()
    assert settings.transformer_options() == ("--shard=machine", "--micro-batch=4")
    batch = CrawlBatch("web", (Source("s", SourceKind.WEB_PAGES, ("https://example.org/",)),))
    with pytest.raises(UserError, match="DALLE_CRAWL_TAKEDOWN"):
        crawl_configs(batch, settings.crawl)
    takedown.write_text("example.com\n")
    _, fetch = crawl_configs(batch, settings.crawl)
    assert fetch.takedown == str(takedown)
    assert (fetch.concurrency, fetch.http.processes) == (128, 7)
    assert (fetch.http.domain_connections, fetch.http.domain_delay_s) == (2, 1.5)
    assert fetch.http.domain_limits == (
        DomainLimit("cdn.example", 16, 0.05),
        DomainLimit("b.example", 1, 3.0),
    )
    assert fetch.http.user_agent == "our-bot/0.1 (+me@example.org)"
    options = ("--dask_client_address=host:8786", "--name=a b")
    assert settings.stages().engine == settings.engine == Engine("DaskRunner", options)


def test_wrong_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    with pytest.raises(UserError, match=r"dependencies are for 3\.11"):
        home.require_python()


def test_unknown_recipe() -> None:
    settings = Settings(data_root="/x", recipe="huge", reference_images="/x", processes=1)
    with pytest.raises(UserError, match="DALLE_RECIPE"):
        settings.training_recipe()


def test_unknown_partition(
    dagster_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    settings = Settings(data_root=str(tmp_path), recipe="demo", reference_images="/x", processes=1)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("crawl_batch", ["known", "misspelt"])
        result = dg.materialize(
            [image_text_candidates],
            instance=instance,
            partition_key="misspelt",
            resources={"settings": settings},
            raise_on_error=False,
        )
    failure = result.failure_data_for_node("image_text_candidates")
    assert failure is not None
    assert "no crawl batch 'misspelt'" in failure.user_failure_data.description


def test_a_foreign_site_needs_a_contact() -> None:
    batch = CrawlBatch("web", (Source("s", SourceKind.WEB_PAGES, ("https://example.org/",)),))
    with pytest.raises(UserError, match="DALLE_CRAWL_CONTACT"):
        crawl_configs(batch, CrawlSettings())
    candidates, _ = crawl_configs(batch, CrawlSettings(contact="me@example.org"))
    assert candidates.http.allow_networks == ()
    assert candidates.http.domain_delay_s > 0


def test_only_a_batch_of_this_machine_may_fetch_from_it() -> None:
    local = Source("l", SourceKind.SITEMAP, ("http://127.0.0.1:8765/sitemap.xml",))
    foreign = Source("f", SourceKind.WEB_PAGES, ("https://example.org/",))
    crawl = CrawlSettings(concurrency=24)
    _, alone = crawl_configs(CrawlBatch("a", (local,)), crawl)
    contact = CrawlSettings(contact="me@example.org")
    _, mixed = crawl_configs(CrawlBatch("b", (local, foreign)), contact)
    assert alone.http.allow_networks == ("127.0.0.0/8",)
    assert (alone.http.domain_delay_s, alone.http.domain_connections) == (0, 24)
    assert mixed.http.allow_networks == ()
