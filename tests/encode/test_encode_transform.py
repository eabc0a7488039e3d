import dataclasses
import functools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_corpus import MeanColour, caption, write_batch

from pipelines import parquet, schemas, storage
from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig, EncodeConfig
from pipelines.encode.image_tokens import crop, decode
from pipelines.encode.transform import encode_pairs
from pipelines.layout import Layout, join
from pipelines.ledger import Finished
from pipelines.runners import Engine

BPE = BpeConfig(vocabulary=320, max_length=12)
TOKENIZER = MeanColour()
IN_PROCESS = Engine()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(str(tmp_path))
    write_batch(found, "a", range(50), shards=2, broken=(7, 30))
    bpe.train_tokenizer(["a"], found, BPE)
    return found


def encode(
    layout: Layout, config: EncodeConfig, engine: Engine = IN_PROCESS, **changes: object
) -> Finished:
    arguments = {
        "image_tokenizer": MeanColour,
        "image_tokenizer_sha256": TOKENIZER.sha256,
        "grid": TOKENIZER.grid,
        "image_size": TOKENIZER.image_size,
        "image_vocabulary": TOKENIZER.vocabulary,
    } | changes
    return encode_pairs("a", layout, BPE, config, engine=engine, **arguments)


def rows(layout: Layout) -> pa.Table:
    shards = storage.list_files(layout.dataset("token_grids", "a"), ".parquet")
    return pa.concat_tables(pq.read_table(shard) for shard in shards)


def test_rows_hold_what_the_tokenizers_give(layout: Layout) -> None:
    done = encode(layout, EncodeConfig(crops=3, batch=8))
    assert (done.funnel.rows_in, done.funnel.kept) == (50, 48)
    assert done.funnel.dropped == {"undecodable_image": 2}
    table = rows(layout)
    assert table.num_rows == done.rows == 48 * 3

    pairs = {
        row["uid"]: row
        for shard in storage.list_files(layout.dataset("deduped_pairs", "a"), ".parquet")
        for row in pq.read_table(shard).to_pylist()
    }
    text = bpe.load_tokenizer(
        join(layout.tokenizer, bpe.FILE_NAME), done.details["provenance"]["tokenizer_sha256"]
    )
    truncated = 0
    for number, row in enumerate(table.to_pylist()):
        pair = pairs[row["uid"]]
        assert row["crop_id"] == number % 3
        assert row["caption"] == pair["caption"]
        ids = text.encode(pair["caption"]).ids
        assert row["text_tokens"] == ids[:12]
        assert row["text_length"] == min(len(ids), 12)
        assert row["text_truncated"] == (len(ids) > 12)
        truncated += row["text_truncated"]
        image = crop(decode(pair["image"]), row["uid"], row["crop_id"], TOKENIZER.image_size)
        assert row["image_tokens"] == TOKENIZER(image[None]).reshape(-1).tolist()
    assert 0 < truncated < table.num_rows
    assert done.details["text_truncated_rows"] == truncated


def test_schema_carries_provenance(layout: Layout) -> None:
    done = encode(layout, EncodeConfig())
    shard = storage.list_files(layout.dataset("token_grids", "a"), ".parquet")[0]
    schema = parquet.read_schema(shard)
    assert schemas.violations(schemas.token_grids(4), schema) == []
    facts = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert facts["dataset"] == "token_grids"
    assert facts["dvae_sha256"] == TOKENIZER.sha256
    assert facts["text_max_length"] == "12"
    assert int(facts["text_vocabulary"]) == bpe.train_tokenizer(["a"], layout, BPE).rows
    assert done.details["provenance"].items() <= facts.items()


def test_undecodable_pairs_are_rejects_with_the_decoders_words(layout: Layout) -> None:
    encode(layout, EncodeConfig())
    shards = storage.list_files(layout.rejects(schemas.Stage.ENCODE, "a"), ".parquet")
    found = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    assert sorted(row["caption_raw"] for row in found) == sorted([caption(7), caption(30)])
    assert all("UnidentifiedImageError" in row["detail"] for row in found)


def test_same_inputs_same_bytes_and_nothing_redone(layout: Layout, tmp_path: Path) -> None:
    first = encode(layout, EncodeConfig(crops=2))
    part = tmp_path / "token_grids/batch=a/part-00000.parquet"
    data, time = part.read_bytes(), part.stat().st_mtime_ns
    assert encode(layout, EncodeConfig(crops=2)) == first
    assert part.stat().st_mtime_ns == time
    storage.remove(str(tmp_path / "token_grids"), recursive=True)
    assert encode(layout, EncodeConfig(crops=2)) == first
    assert part.read_bytes() == data


@pytest.mark.parametrize("what", ["crops", "dvae", "pairs"])
def test_a_changed_input_encodes_again(layout: Layout, what: str) -> None:
    first = encode(layout, EncodeConfig())
    if what == "crops":
        second = encode(layout, EncodeConfig(crops=2))
    elif what == "dvae":
        other = dataclasses.replace(TOKENIZER, grid=8)
        factory = functools.partial(MeanColour, grid=8)
        second = encode(
            layout,
            EncodeConfig(),
            image_tokenizer=factory,
            image_tokenizer_sha256=other.sha256,
            grid=8,
        )
        assert rows(layout).schema.field("image_tokens").type.list_size == 64
    else:
        write_batch(layout, "a", range(40))
        second = encode(layout, EncodeConfig())
        assert second.rows == 40
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_tokenizer_sha256": "0" * 64}, "sha256 is"),
        ({"grid": 2}, "grid is 4, the stage was started for 2"),
        ({"image_size": 64}, "image_size is 32"),
        (
            {"image_tokenizer": functools.partial(MeanColour, vocabulary=5), "image_vocabulary": 5},
            "beyond its vocabulary",
        ),
    ],
)
def test_a_wrong_image_tokenizer_is_refused(layout: Layout, change: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        encode(layout, EncodeConfig(), **change)
    assert not storage.exists(join(layout.dataset("token_grids", "a"), "_SUCCESS"))


def test_another_bpe_configuration_is_refused(layout: Layout) -> None:
    with pytest.raises(ValueError, match="materialise bpe_tokenizer again"):
        encode_pairs(
            "a", layout, BpeConfig(), EncodeConfig(), MeanColour, TOKENIZER.sha256, 4, Engine(),
            image_size=32, image_vocabulary=64,
        )  # fmt: skip


def test_a_dask_cluster_gives_the_same_bytes(layout: Layout, tmp_path: Path) -> None:
    from distributed import LocalCluster

    def files() -> dict[str, bytes]:
        return {
            p.name: p.read_bytes()
            for p in (tmp_path / "token_grids/batch=a").glob("*")
            if p.is_file()
        }

    config = EncodeConfig(crops=2, batch=8)
    encode(layout, config)
    here = files()
    storage.remove(str(tmp_path / "token_grids"), recursive=True)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        engine = Engine("DaskRunner", (f"--dask_client_address={cluster.scheduler_address}",))
        encode(layout, config, engine)
    assert files() == here
    assert len(here) == 3


def test_token_pages_have_no_statistics(layout: Layout) -> None:
    encode(layout, EncodeConfig())
    shard = storage.list_files(layout.dataset("token_grids", "a"), ".parquet")[0]
    group = pq.ParquetFile(shard).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    codes = columns["image_tokens.list.element"]
    assert "BYTE_STREAM_SPLIT" in codes.encodings
    assert not codes.is_stats_set
    assert all(columns[name].is_stats_set for name in ("crop_id", "text_length"))
