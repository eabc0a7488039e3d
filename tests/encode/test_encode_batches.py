"""What the image tokenizer is given: full batches over the borders of shards, in one process."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from token_corpus import MeanColour, write_batch

from pipelines import storage
from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs, once_per_process
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.runners import Engine

BPE = BpeConfig(vocabulary=320, max_length=12)
ROWS, BROKEN = 50, (7, 30)


class Watched(MeanColour):
    """Notes how many images came at once, and in which thread."""

    sizes: list[int]
    threads: set[str]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        type(self).sizes.append(len(images))
        type(self).threads.add(threading.current_thread().name)
        return super().__call__(images)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(str(tmp_path))
    write_batch(found, "a", range(ROWS), shards=4, broken=BROKEN)
    bpe.train_tokenizer(["a"], found, BPE)
    Watched.sizes, Watched.threads = [], set()
    return found


def encode(layout: Layout, factory: object, **config: object) -> Finished:
    tokenizer = MeanColour()
    return encode_pairs(
        "a", layout, BPE, EncodeConfig(**config), factory, tokenizer.sha256, tokenizer.grid,
        Engine(), image_size=tokenizer.image_size, image_vocabulary=tokenizer.vocabulary,
    )  # fmt: skip


@pytest.mark.parametrize("crops", [1, 3])
def test_batches_are_full_over_shards(layout: Layout, crops: int) -> None:
    # Four shards of 12 or 13 pairs: alone, each would end in a batch that is not full.
    encode(layout, Watched, batch=10, crops=crops)
    images = (ROWS - len(BROKEN)) * crops
    assert Watched.sizes == [10] * (images // 10) + ([images % 10] if images % 10 else [])
    assert len(Watched.threads) == 1
    assert threading.current_thread().name not in Watched.threads


def test_how_work_is_cut_changes_no_byte(layout: Layout, tmp_path: Path) -> None:
    cuts = (
        {"batch": 128, "shards_together": 1, "decode_threads": 1},
        {"batch": 7, "shards_together": 3, "decode_threads": 3},
    )
    found = []
    for cut in cuts:
        encode(layout, MeanColour, crops=2, **cut)
        folder = tmp_path / "token_grids/batch=a"
        found.append({p.name: p.read_bytes() for p in folder.glob("part-*")})
        storage.remove(str(tmp_path / "token_grids"), recursive=True)
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_a_shard_without_rows_between_others(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    write_batch(layout, "a", range(2), shards=4)
    bpe.train_tokenizer(["a"], layout, BPE)
    done = encode(layout, MeanColour)
    assert done.rows == 2
    shards = storage.list_files(layout.dataset("token_grids", "a"), ".parquet")
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [1, 1, 0, 0]


def test_an_error_of_the_model_ends_the_run(layout: Layout) -> None:
    before = set(threading.enumerate())
    with pytest.raises(Exception, match="beyond its vocabulary"):
        encode(layout, functools.partial(Loud), batch=8)
    assert len(set(threading.enumerate()) - before) < 20


class Loud(MeanColour):
    def __call__(self, images: np.ndarray) -> np.ndarray:
        return super().__call__(images) + np.uint16(60000)


class Counted:
    made = 0

    def __init__(self) -> None:
        Counted.made += 1


def test_threads_of_a_process_share_the_image_tokenizer() -> None:
    factory = once_per_process(Counted)  # type: ignore[arg-type]
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: id(factory()), range(8)))
    assert Counted.made == len(found) == 1


def test_another_precision_encodes_again_and_is_not_mixed(layout: Layout) -> None:
    first = encode(layout, MeanColour)
    with pytest.raises(Exception, match="precision is fp32, the stage was started for bf16"):
        encode(layout, MeanColour, precision="bf16")
    second = encode(layout, functools.partial(MeanColour, precision="bf16"), precision="bf16")
    assert second.fingerprint != first.fingerprint
    assert second.details["provenance"]["precision"] == "bf16"
    with pytest.raises(ValueError, match="fp32 or bf16, got 'fp8'"):
        EncodeConfig(precision="fp8")  # type: ignore[arg-type]
