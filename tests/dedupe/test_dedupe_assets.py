import functools
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, read_all, row

from assets.dedupe import CHECKS, coco_hash_index, deduped_pairs, order_check, searches
from assets.definitions import defs
from assets.lib.home import UserError
from assets.lib.partitions import crawl_batches
from assets.lib.settings import Settings
from pipelines import storage
from pipelines.crawl.batches import CrawlBatch, Source, SourceKind, write_batch
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.caught import caught_copies
from pipelines.runners import Engine

NAMES = ("snail", "guitar", "dragon")
CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "references"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(artwork()[name])
    return Settings(
        data_root=str(tmp_path / "data"),
        recipe="demo",
        reference_images=str(folder),
        processes=1,
    )


def materialize(
    settings: Settings, asset: dg.AssetsDefinition, batch: str | None = None
) -> dg.ExecuteInProcessResult:
    instance = dg.DagsterInstance.ephemeral()
    if batch is not None:
        instance.add_dynamic_partitions(crawl_batches.name, [batch])
    return dg.materialize(
        [
            asset,
            *(check for check in CHECKS if asset.key in {k.asset_key for k in check.check_keys}),
        ],
        resources={"settings": settings},
        instance=instance,
        partition_key=batch,
    )


def test_the_pages_show_recall_false_flags_and_what_was_caught(settings: Settings) -> None:
    done = materialize(settings, coco_hash_index)
    (event,) = done.get_asset_materialization_events()
    metadata = event.materialization.metadata
    recalled = {r.data["attack"]: r.data for r in metadata["recall"].records}
    assert (recalled["mirror"]["caught"], recalled["mirror"]["by 64 bits alone"]) == (3, 0)
    assert metadata["false flags"].records[0].data["tried"] == 3
    assert "data:image/" in metadata["recall by attack"].value
    assert done.get_asset_check_evaluations()[0].passed

    layout = settings.layout
    sources = (Source("list", SourceKind.URL_LIST, ("list.tsv",)),)
    for number, batch in enumerate(("first", "second")):
        write_batch(CrawlBatch(batch, sources), layout)
        copy = row(number, "a snail that was copied", encoded(on_white(artwork()["snail"]), "JPEG"))
        own = row(10 + number, "a camel that is our own", artwork()["camel"])
        fetched_pairs(layout, batch, [copy, own])
        curate_pairs(batch, layout, CURATE, Engine())
        done = materialize(settings, deduped_pairs, batch)
        (event,) = done.get_asset_materialization_events()
        metadata = event.materialization.metadata
        assert "data:image/" in metadata["caught"].value
        assert all(check.passed for check in done.get_asset_check_evaluations())
        assert metadata["rows kept"].value == (1 if batch == "first" else 0)

    rejects = layout.rejects("dedupe", "second")
    index, deduped = layout.dataset("coco_hash_index"), layout.dataset("deduped_pairs", "second")
    (caught,) = caught_copies(deduped, rejects, index, 9)
    assert (caught.reference, caught.caption) == ("snail.png", "a snail that was copied")
    assert caught.original[8:12] == b"WEBP"


ORDER = order_check()


def overlapping(settings: Settings) -> None:
    """Curated batches a and b, registered in this order, that share the camel."""
    layout = settings.layout
    sources = (Source("list", SourceKind.URL_LIST, ("list.tsv",)),)
    for number, (batch, own) in enumerate((("a", "cactus"), ("b", "sailboat"))):
        write_batch(CrawlBatch(batch, sources), layout)
        # The later caption says more.
        text = "a camel" + " in the hot and dry desert" * number
        rows = [
            row(10 * number, f"{text} as an emoji", artwork()["camel"]),
            row(10 * number + 1, f"a {own} as an emoji", artwork()[own]),
        ]
        fetched_pairs(layout, batch, rows)
        curate_pairs(batch, layout, CURATE, Engine())


def kept(settings: Settings) -> dict[str, list[str]]:
    found = {b: read_all(settings.layout.dataset("deduped_pairs", b)) for b in "ab"}
    return {b: sorted(table.column("url").to_pylist()) for b, table in found.items()}


def test_batches_in_any_order_keep_the_same_once_the_check_passes(
    settings: Settings,
) -> None:
    overlapping(settings)
    materialize(settings, coco_hash_index)
    for batch in "ab":
        done = materialize(settings, deduped_pairs, batch)
        assert all(check.passed for check in done.get_asset_check_evaluations())
    in_order = kept(settings)
    assert [len(in_order[batch]) for batch in "ab"] == [2, 1]

    for batch in "ab":
        shutil.rmtree(settings.layout.dataset("deduped_pairs", batch))
    for batch in "ba":
        materialize(settings, deduped_pairs, batch)
        assert ORDER.problem(settings, batch) is None
    assert [len(urls) for urls in kept(settings).values()] == [2, 2]
    problem = ORDER.problem(settings, "b")
    assert problem is not None
    assert "a was registered earlier" in problem
    assert "launch deduped_pairs of b again" in problem
    materialize(settings, deduped_pairs, "b")
    assert ORDER.problem(settings, "b") is None
    assert kept(settings) == in_order


def test_the_order_of_many_batches_is_checked_by_reading_each_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlapping(settings)
    materialize(settings, coco_hash_index)
    for batch in "ba":
        materialize(settings, deduped_pairs, batch)
    layout, read, read_json = settings.layout, Counter[str](), storage.read_json

    def counted(url: str) -> object:
        read[url] += 1
        return read_json(url)

    monkeypatch.setattr(storage, "read_json", counted)
    check = order_check(functools.cache(searches))
    for _ in range(3):
        assert check.problem(settings, "a") is None
        assert "a was registered earlier" in str(check.problem(settings, "b"))
    registered = [layout.crawl_batch(batch) for batch in "ab"]
    assert [read[url] for url in registered] == [1, 1]
    # As an earlier batch once, and each time as the one that is checked.
    assert read[f"{layout.dataset('deduped_pairs', 'a')}/_SUCCESS"] == 1 + 3
    with pytest.raises(FileNotFoundError, match="'c' is not registered any more"):
        check.problem(settings, "c")


def test_a_run_of_an_earlier_batch_that_has_begun_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlapping(settings)
    materialize(settings, coco_hash_index)
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions(crawl_batches.name, ["a", "b"])
        begun = instance.create_run_for_job(
            defs.resolve_job_def("collect_pairs"),
            tags={"dagster/partition": "a"},
            status=dg.DagsterRunStatus.STARTED,
        )
        naps: list[float] = []

        def sleep(seconds: float) -> None:
            """The first time nothing happens; before the second the other run ends."""
            naps.append(seconds)
            if len(naps) == 2:
                materialize(settings, deduped_pairs, "a")
                instance.report_run_canceled(begun)

        monkeypatch.setattr("assets.dedupe.time", SimpleNamespace(sleep=sleep))
        done = dg.materialize(
            [deduped_pairs], resources={"settings": settings}, instance=instance, partition_key="b"
        )
    assert done.success
    assert len(naps) == 2
    assert ORDER.problem(settings, "b") is None
    assert [len(urls) for urls in kept(settings).values()] == [2, 1]


def test_a_file_of_the_deployment_chooses_the_mode(settings: Settings, tmp_path: Path) -> None:
    materialize(settings, coco_hash_index)
    layout = settings.layout
    write_batch(CrawlBatch("a", (Source("list", SourceKind.URL_LIST, ("l.tsv",)),)), layout)
    copy = row(1, "a snail that was copied", encoded(on_white(artwork()["snail"]), "JPEG"))
    fetched_pairs(layout, "a", [copy])
    curate_pairs("a", layout, CURATE, Engine())
    file = tmp_path / "dedupe.json"
    file.write_text('{"mode": "report"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DALLE_DEDUPE_CONFIG", str(file))
        path = Settings.from_environment().dedupe_config
    told = Settings(
        data_root=settings.data_root,
        recipe="demo",
        reference_images=settings.reference_images,
        processes=1,
        dedupe_config=path,
    )
    materialize(told, deduped_pairs, "a")
    found = read_all(layout.dataset("deduped_pairs", "a")).to_pylist()
    assert [pair["dup_of"] for pair in found] == ["snail.png"]
    # The recipe's own fields stay, and the file counts in the fingerprint.
    assert not told.stages().dedupe.near_repeats
    materialize(settings, deduped_pairs, "a")
    assert read_all(layout.dataset("deduped_pairs", "a")).num_rows == 0


@pytest.mark.parametrize("stage", ["curate", "dedupe"])
def test_a_wrong_field_is_one_sentence_that_names_the_file(
    settings: Settings, tmp_path: Path, stage: str
) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"min_sides": 3}')
    told = settings.model_copy(update={f"{stage}_config": str(file)})
    with pytest.raises(UserError) as error:
        told.stages()
    variable = f"DALLE_{stage.upper()}_CONFIG"
    assert str(error.value).startswith(f"{variable}: {file} names min_sides, which is not one of")
    assert "\n" not in str(error.value)


def test_an_earlier_batch_that_holds_something_else_since_is_named(settings: Settings) -> None:
    overlapping(settings)
    materialize(settings, coco_hash_index)
    for batch in "ab":
        materialize(settings, deduped_pairs, batch)
    assert ORDER.problem(settings, "b") is None
    fetched_pairs(settings.layout, "a", [row(5, "a snowman as an emoji", artwork()["cactus"])])
    curate_pairs("a", settings.layout, CURATE, Engine())
    materialize(settings, deduped_pairs, "a")
    problem = ORDER.problem(settings, "b")
    assert problem is not None
    assert "launch deduped_pairs of b again" in problem
    materialize(settings, deduped_pairs, "b")
    # What only b has now is kept there.
    assert [len(urls) for urls in kept(settings).values()] == [1, 2]
