import functools
import re
from pathlib import Path

import pytest
from token_corpus import MeanColour, write_batch

from pipelines import schemas_doc
from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout
from pipelines.publish.config import PublishConfig
from pipelines.publish.dataset import publish
from pipelines.runners import Engine
from training.row_stream import Position

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "data_contract.md"


def test_the_column_tables_are_current(tmp_path: Path) -> None:
    written = tmp_path / "columns.md"
    schemas_doc.main(written)
    assert written.read_text() == (DOCS / "columns.md").read_text(), (
        "run: python -m pipelines.schemas_doc docs/columns.md"
    )


def test_the_readers_on_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(str(tmp_path / "demo/data"))
    # The size of the recipe that the page names.
    image_tokenizer = functools.partial(MeanColour, image_size=40, grid=10, vocabulary=512)
    config = BpeConfig(vocabulary=300, max_length=36)
    write_batch(layout, "a", range(20))
    bpe.train_tokenizer(["a"], layout, config)
    encode_pairs(
        "a", layout, config, EncodeConfig(), image_tokenizer, image_tokenizer().sha256, 10,
        Engine(), image_size=40, image_vocabulary=512,
    )  # fmt: skip
    publish(["a"], layout, PublishConfig())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    assert names["codes"].shape == (20, 10, 10)
    assert names["codes"].dtype == "uint16"
    batch = names["batch"]
    assert batch.text.shape == (4, 36)
    assert batch.codes.shape == (4, 100)
    stored = {codes.ravel().tobytes() for codes in names["codes"].astype("int64")}
    assert {row.numpy().tobytes() for row in batch.codes} <= stored
    assert names["stream"].position != Position()
    assert names["metadata"].count_rows() == 20
    assert names["wide"].column_names == ["uid", "url", "caption"]
    assert names["languages"] == [("en", 20)]
    clocks = [c for c in names["frame"]["caption"] if "clock" in c]
    assert sorted(names["clock_tokens"]["caption"].to_list()) == sorted(clocks)
    assert clocks
    assert len(names["frame"]) == 20
    assert names["first"] == names["codes"][0].ravel().tolist()
