"""The command does what the asset does, and takes folders of pictures."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from token_corpus import picture, write_batch

from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout, join
from pipelines.runners import Engine
from training import finished
from training.config import DVAEConfig
from training.image_tokenizer import image_tokenizer_info, load_image_tokenizer
from training.models.dvae import DVAE
from training.tokenize_images import tokenize_images

CONFIG = DVAEConfig(
    image_size=16, hidden=8, blocks_per_group=1, groups=3, vocabulary=32, decoder_init=8
)


@pytest.fixture(scope="module")
def dvae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "dvae"
    torch.manual_seed(0)
    finished.write(folder, "x", DVAE(CONFIG), CONFIG, {"recipe": "tiny"})
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for i in range(6):
        (folder / ("below" if i % 2 else "") / f"{i}.png").write_bytes(picture(i, (30, 20)))
    return folder


def run(*arguments: object, status: int = 0) -> str:
    command = [sys.executable, "-m", "training.tokenize_images", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def rows(output: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in sorted(output.glob("part-*.parquet")))


def tokenizer_file(folder: Path) -> Path:
    learnt = bpe.learn(iter(["a red heart"] * 3 + ["a cat"] * 3), BpeConfig(vocabulary=300))
    (folder / "tokenizer.json").write_text(learnt.to_str())
    return folder / "tokenizer.json"


def test_pairs_give_the_rows_of_the_asset(dvae: Path, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "data"))
    write_batch(layout, "a", range(30), broken=(4,))
    config = BpeConfig(vocabulary=320, max_length=12)
    bpe.train_tokenizer(["a"], layout, config)
    info = image_tokenizer_info(str(dvae))
    encode_pairs(
        "a", layout, config, EncodeConfig(crops=2), lambda: load_image_tokenizer(str(dvae)),
        info.sha256, info.grid, Engine(), image_size=info.image_size,
        image_vocabulary=info.vocabulary,
    )  # fmt: skip
    wanted = rows(Path(layout.dataset("token_grids", "a")))

    output = tmp_path / "out"
    pairs = layout.dataset("deduped_pairs", "a")
    arguments = (
        pairs, "--checkpoint", dvae, "--output", output, "--crops", 2,
        "--tokenizer", join(layout.tokenizer, "tokenizer.json"), "--text-length", 12,
    )  # fmt: skip
    told = run(*arguments)
    found = rows(output)
    assert found.equals(wanted)
    assert found.schema.equals(wanted.schema, check_metadata=True)
    assert "undecodable_image" in told
    assert f"58 rows of 4x4 codes in {output}" in told

    before = (output / "_SUCCESS").stat().st_mtime_ns
    run(*arguments)
    assert (output / "_SUCCESS").stat().st_mtime_ns == before


def test_a_folder_without_captions(dvae: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xffno")
    output = tmp_path / "out"
    told = run(pictures, "--checkpoint", dvae, "--output", output)
    assert "undecodable_image                       1" in told
    table = rows(output)
    assert table["text_length"].to_pylist() == [0] * 6
    assert len(set(table["uid"].to_pylist())) == 6
    assert all(0 <= c < 32 for row in table["image_tokens"].to_pylist() for c in row)
    assert table.schema.metadata[b"tokenizer_sha256"] == b"none"
    rejects = pq.read_table(output / "_rejects/part-00000.parquet")
    assert rejects["url"].to_pylist() == ["broken.jpg"]

    (pictures / "one_more.png").write_bytes(picture(9))
    run(pictures, "--checkpoint", dvae, "--output", output)
    assert rows(output).num_rows == 7


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "txt"])
def test_captions(kind: str, dvae: Path, pictures: Path, tmp_path: Path) -> None:
    named = {"0.png": "A red\nHeart", "below/1.png": "a cat, again"}
    table = tmp_path / f"captions.{kind}"
    columns = {"file_name": list(named), "caption": list(named.values())}
    if kind == "parquet":
        pq.write_table(pa.table(columns), table)
    elif kind == "txt":
        for name, text in named.items():
            (pictures / name).with_suffix(".txt").write_text(text)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [f'"{name}"{mark}"{text}"' for name, text in named.items()]
        table.write_text("\n".join([f"file_name{mark}caption", *lines]) + "\n")
    output, tokenizer = tmp_path / "out", tokenizer_file(tmp_path)
    captions = None if kind == "txt" else str(table)
    with pytest.raises(ValueError, match=r"2 pictures have captions; name the tokenizer\.json"):
        tokenize_images(str(pictures), str(dvae), str(output), captions=captions)
    tokenize_images(
        str(pictures), str(dvae), str(output), tokenizer=str(tokenizer), captions=captions
    )
    found = rows(output)
    assert [text for text in found["caption"].to_pylist() if text] == [
        "A red Heart",
        "a cat, again",
    ]
    decode = bpe.Tokenizer.from_file(str(tokenizer)).decode
    texts = [decode(ids) for ids in found["text_tokens"].to_pylist() if ids]
    assert texts == ["a red heart", "a cat, again"]


def test_clear_refusals(dvae: Path, pictures: Path, tmp_path: Path) -> None:
    output, table = tmp_path / "out", tmp_path / "captions.csv"
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "foreign/part-00000.parquet")

    def refused(images: Path, message: str, model: Path = dvae, text: str | None = None) -> None:
        if text is not None:
            table.write_text(text)
        with pytest.raises(ValueError, match=message):
            tokenize_images(
                str(images), str(model), str(output), captions=str(table) if text else None
            )

    refused(tmp_path / "missing", "is no folder")
    refused(tmp_path / "empty", "holds no picture")
    refused(tmp_path / "foreign", "has no column uid")
    refused(pictures, "holds no finished model", model=tmp_path)
    refused(pictures, "the first is 'other.png'", text="file_name,caption\nother.png,a cat\n")
    refused(pictures, "has no column file_name", text="name,caption\n0.png,a cat\n")
    refused(pictures, "is no table of captions", text='file_name,caption\n"0.png,a,b,c\nx,y,z\n')
    assert not (output / "_SUCCESS").exists()
    told = run(pictures, "--checkpoint", tmp_path, "--output", output, status=2)
    assert told.startswith("error: ")
    assert told.count("\n") == 1
