"""Every wrong input: one sentence that says what to do, and an exit status that is not 0."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets import batches
from assets.crawl import image_text_candidates
from assets.lib import home
from assets.lib.home import UserError
from assets.lib.settings import REPOSITORY, Settings
from assets.lib.stages import crawl_configs
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, read_batch
from pipelines.layout import Layout


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


def test_wrong_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    with pytest.raises(UserError, match=r"dependencies are for 3\.11"):
        home.require_python()


def test_unknown_recipe() -> None:
    settings = Settings(data_root="/x", recipe="huge", reference_images="/x", processes=1)
    with pytest.raises(UserError, match="DALLE_RECIPE"):
        settings.training_recipe()


def test_batches_command(
    dagster_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    monkeypatch.setenv("DALLE_DATA_ROOT", str(tmp_path / "data"))
    assert batches.main(["add", "mine", str(tmp_path / "missing.csv")]) == 2
    assert "cannot read the URL list" in capsys.readouterr().err
    assert batches.main(["add", "no/slash", "https://example.org/a.html"]) == 2
    assert "batch name" in capsys.readouterr().err
    urls = tmp_path / "urls.csv"
    urls.write_text("url,caption\nhttps://example.org/a.jpg,a red bicycle by a wall\n")
    assert batches.main(["add", "mine", str(urls), "https://example.org/sitemap.xml"]) == 0
    written = read_batch("mine", Layout(str(tmp_path / "data")))
    assert [s.kind for s in written.sources] == [SourceKind.URL_LIST, SourceKind.SITEMAP]
    capsys.readouterr()
    assert batches.main(["launch", "misspelt"]) == 2
    assert "(registered: mine)" in capsys.readouterr().err
    assert batches.main(["list"]) == 0
    assert capsys.readouterr().out == "mine\n"


def test_unknown_partition(dagster_home: Path, tmp_path: Path) -> None:
    settings = Settings(data_root=str(tmp_path), recipe="demo", reference_images="/x", processes=1)
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
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
    with pytest.raises(ValueError, match="DALLE_CRAWL_CONTACT"):
        crawl_configs(batch, "")
    candidates, _ = crawl_configs(batch, "me@example.org")
    assert candidates.http.allow_networks == ()
    assert candidates.http.domain_delay_s > 0


def test_only_a_batch_of_this_machine_may_fetch_from_it() -> None:
    local = Source("l", SourceKind.SITEMAP, ("http://127.0.0.1:8765/sitemap.xml",))
    foreign = Source("f", SourceKind.WEB_PAGES, ("https://example.org/",))
    _, alone = crawl_configs(CrawlBatch("a", (local,)), "")
    _, mixed = crawl_configs(CrawlBatch("b", (local, foreign)), "me@example.org")
    assert alone.http.allow_networks == ("127.0.0.0/8",)
    assert mixed.http.allow_networks == ()
