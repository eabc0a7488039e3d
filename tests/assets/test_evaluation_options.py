"""DALLE_EVALUATION_OPTIONS: the paper's protocol by the asset, and a wrong word's sentence."""

import json
from pathlib import Path

import dagster as dg
import pytest
import typer
from encoded_batches import CONFIG, build

from assets.lib import trainer
from assets.lib.settings import Settings
from assets.lib.trainer import TrainingProgram
from assets.validate import evaluation
from pipelines.layout import Layout
from pipelines.publish.dataset import publish
from training import cli, evaluate


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = build(tmp_path_factory.mktemp("encoded"))
    publish(["a", "b"], layout, CONFIG)
    own = Path(layout.model("contrastive"), "final")
    own.mkdir(parents=True)
    (own / "_SUCCESS").touch()
    return layout


def materialized(layout: Layout, options: str) -> dg.ExecuteInProcessResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DALLE_DATA_ROOT", layout.root)
        patch.setenv("DALLE_EVALUATION_OPTIONS", options)
        settings = Settings.from_environment()
    resources = {"settings": settings}
    return dg.materialize([evaluation], resources=resources, raise_on_error=False)


def test_the_words_reach_the_program_after_the_assets_own(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[TrainingProgram] = []

    def run(_context: object, program: TrainingProgram) -> None:
        programs.append(program)
        Path(layout.evaluation).mkdir(exist_ok=True)
        found = {"fid_blur_0": 1.0, "dalle_sha256": "ab" * 32}
        Path(layout.evaluation, "evaluation.json").write_text(json.dumps(found))
        Path(layout.evaluation, "report.md").write_text("# Report")

    monkeypatch.setattr(trainer, "run", run)
    for words in ("", "--coco '/data/coco 14' --inception=/data/w.pth --candidates 512 --bf16"):
        assert materialized(layout, words).success
    app = cli.new_app()
    app.command()(evaluate.evaluate)
    command = typer.main.get_command(app)
    plain, paper = (command.make_context("x", list(one.arguments)).params for one in programs)
    assert (plain["candidates"], plain["coco"], plain["inception"]) == (8, None, None)
    changed = {"candidates": 512, "coco": Path("/data/coco 14"), "inception": Path("/data/w.pth")}
    assert paper == plain | changed | {"bf16": True}
    assert str(paper["rerank"]) == layout.model("contrastive")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--coko /data/coco", "No such option: --coko"),
        ("--candidates=1000", "Invalid value for '--candidates'"),
        ("coco", "Got unexpected extra argument(s) (coco)"),
    ],
)
def test_a_wrong_word_is_the_programs_own_sentence(layout: Layout, options: str, said: str) -> None:
    found = materialized(layout, options)
    assert not found.success
    failure = found.failure_data_for_node("evaluation")
    assert failure is not None
    assert failure.user_failure_data is not None
    description = str(failure.user_failure_data.description)
    assert description.startswith("training.evaluate ended with status 2.")
    assert said in description
    assert "Traceback" not in description
