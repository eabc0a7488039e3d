"""The loader over a published version: workers, interruptions, epochs, and what is refused."""

import dataclasses
import itertools
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_training
from token_corpus import MeanColour, write_batch

from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout
from pipelines.publish.config import PublishConfig
from pipelines.publish.dataset import publish
from pipelines.publish.manifest import DatasetError, Manifest
from pipelines.runners import Engine
from training.config import DVAEConfig, Recipe, SplitConfig, TextConfig
from training.errors import InputError
from training.row_stream import Position
from training.splits import Split
from training.token_data import TokenBatch, TokenData

ROWS, BATCH = 40, 6
BPE = BpeConfig(vocabulary=320, max_length=40)


def recipe() -> Recipe:
    return dataclasses.replace(
        tiny_training.tiny(),
        text=TextConfig(vocabulary=320, length=40, dropout=0.3),
        dvae=DVAEConfig(image_size=32, hidden=8, blocks_per_group=1, vocabulary=64),
        split=SplitConfig(validation=0.0),
    )


def published(layout: Layout, factory: type[MeanColour] = MeanColour) -> Manifest:
    model = factory()
    bpe.train_tokenizer(["a"], layout, BPE)
    encode_pairs(
        "a", layout, BPE, EncodeConfig(), factory, model.sha256, model.grid, Engine(),
        image_size=model.image_size, image_vocabulary=model.vocabulary,
    )  # fmt: skip
    return publish(["a"], layout, PublishConfig(row_group_rows=7, rows_per_file=20))


class OtherWeights(MeanColour):
    @property
    def sha256(self) -> str:
        return "ab" * 32


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> str:
    layout = Layout(str(tmp_path_factory.mktemp("token_data")))
    write_batch(layout, "a", range(ROWS))
    return published(layout).directory


def same(a: TokenBatch, b: TokenBatch) -> bool:
    return bool((a.text == b.text).all() and (a.codes == b.codes).all())


def taken(data: TokenData, count: int, workers: int, start: Position | None = None) -> list:
    """Batches, each with the position behind it."""
    stream = data.stream(Split.TRAIN, seed=3)
    stream.position = start or Position()
    batches = itertools.islice(data.training_batches(stream, BATCH, workers), count)
    return [(batch, dataclasses.replace(stream.position)) for batch in batches]


def test_any_number_of_workers_and_any_interruption_gives_the_same_batches(version: str) -> None:
    data = TokenData(version, recipe())
    alone = taken(data, 16, workers=0)
    ahead = taken(data, 9, workers=2)
    resumed = taken(data, 7, workers=1, start=ahead[-1][1])
    assert all(same(a, b) for (a, _), (b, _) in zip(alone, ahead + resumed, strict=True))
    assert [p for _, p in alone] == [p for _, p in ahead + resumed]


def test_dropout_is_drawn_anew_in_each_epoch_and_repeats_in_each_run(version: str) -> None:
    data = TokenData(version, recipe())
    epochs: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for batch, _ in taken(data, 3 * ROWS // BATCH, workers=0):
        for text, length, codes in zip(batch.text, batch.lengths, batch.codes, strict=True):
            epochs.setdefault(tuple(codes.tolist()), set()).add(tuple(text[:length].tolist()))
    drawn = [len(texts) for texts in epochs.values()]
    assert sum(n > 1 for n in drawn) > len(drawn) * 0.8
    again = taken(data, 2, workers=0)
    assert all(same(a, b) for (a, _), (b, _) in zip(again, taken(data, 2, 0), strict=True))


def test_a_batch_over_the_end_of_an_epoch_draws_by_the_row(version: str) -> None:
    data = TokenData(version, recipe())
    stream = data.stream(Split.TRAIN)
    tables = list(itertools.islice(stream.batches(BATCH), 14))
    assert any(len(set(table["epoch"].to_pylist())) == 2 for table in tables)
    seen = Counter(
        pair
        for table in tables
        for pair in zip(table["epoch"].to_pylist(), table["uid"].to_pylist(), strict=True)
    )
    assert set(seen.values()) == {1}


def test_a_grid_comes_back_as_it_was_encoded(version: str) -> None:
    data = TokenData(version, recipe())
    stored = {
        row["uid"]: row["image_tokens"]
        for url in data.urls
        for row in pq.read_table(url).to_pylist()
    }
    table = data.stream(Split.TRAIN).all_rows(ROWS)
    found = data.plain_batch(table).codes.tolist()
    assert found == [stored[uid] for uid in table["uid"].to_pylist()]
    assert len(found) == ROWS


def test_another_dvae_or_tokenizer_makes_another_version(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    write_batch(layout, "a", range(ROWS))
    first = published(layout)
    assert published(layout).version == first.version
    second = published(layout, OtherWeights)
    write_batch(layout, "a", range(ROWS + 5))
    third = published(layout)
    assert third.tokenizer_sha256 != first.tokenizer_sha256
    assert len({first.version, second.version, third.version}) == 3


def test_files_of_two_versions_are_not_mixed(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(version, folder)
    part = folder / "tokens/part-00001.parquet"
    table = pq.read_table(part)
    other = {**table.schema.metadata, b"dvae_sha256": b"ab" * 32}
    pq.write_table(table.replace_schema_metadata(other), part)
    with pytest.raises(DatasetError, match="bytes, its manifest says"):
        TokenData(str(folder), recipe())
    data = TokenData(version, recipe())
    data.urls[1] = str(part)
    with pytest.raises(InputError, match=r"made with dvae_sha256 abab.*files of two datasets"):
        data.stream(Split.TRAIN)


def test_a_changed_tokenizer_is_refused(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(version, folder)
    file = folder / "tokenizer.json"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=r"sha256 .*, its manifest says"):
        TokenData(str(folder), recipe())
