import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, read_all, row
from PIL import Image, ImageOps

from pipelines import ledger, schemas
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig, Mode
from pipelines.dedupe.overlap import FILE as OVERLAP_FILE
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.search import load_index
from pipelines.dedupe.transform import dedupe_pairs, match_of, repeat_of
from pipelines.dedupe.verify import verify_no_reference_copies
from pipelines.layout import Layout
from pipelines.ledger import Finished
from pipelines.runners import Engine

CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
CONFIG = DedupeConfig(measured_references=8)
# Unlike each other and every other drawing, and not symmetric.
REFERENCES = ("sailboat", "cactus", "pizza", "elephant", "snail", "guitar", "dragon", "camel")


class World(NamedTuple):
    layout: Layout
    index: Finished
    copies: dict[bytes, str]
    repeats: list[dict[str, object]]


def copies_of(name: str) -> list[bytes]:
    image = on_white(artwork()[name])
    return [
        artwork()[name],
        encoded(image, "JPEG", quality=60),
        encoded(image.resize((50, 50), Image.Resampling.LANCZOS)),
        encoded(image.resize((120, 120), Image.Resampling.BILINEAR)),
        encoded(ImageOps.mirror(image), "JPEG", quality=85),
        encoded(ImageOps.expand(image, 6, "black")),
        encoded(image.crop((2, 2, 70, 70))),
    ]


def write_references(folder: Path) -> None:
    (folder / "val2014").mkdir(parents=True)
    for name in REFERENCES:
        (folder / "val2014" / f"{name}.png").write_bytes(artwork()[name])
    (folder / "flat.png").write_bytes(encoded(Image.new("RGB", (64, 64), "white")))
    (folder / "damaged.jpg").write_bytes(encoded(on_white(artwork()["pizza"]), "JPEG")[:500])
    (folder / "captions.json").write_text("{}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("dedupe")
    write_references(root / "references")
    layout = Layout(str(root / "data"))
    names = [name for name in sorted(artwork()) if name not in REFERENCES][::20]
    rows = [row(i, f"{name} as an emoji", artwork()[name]) for i, name in enumerate(names)]
    copies = {}
    for name in REFERENCES:
        for data in copies_of(name):
            rows.append(row(len(rows), f"a {name} that was changed", data))
            copies[rows[-1]["uid"]] = f"val2014/{name}.png"
    same = artwork()["red heart"]
    texts = ("a red heart", "a red heart as an emoji", "the red heart as a sign", "a heart in red")
    repeats = [row(len(rows) + i, text, same) for i, text in enumerate(texts)]
    fetched_pairs(layout, "a", rows[::2] + repeats[:2], rows[1::2] + repeats[2:])
    curate_pairs("a", layout, CURATE, Engine())
    index = build_index(str(root / "references"), layout, CONFIG)
    dedupe_pairs("a", layout, CONFIG, Engine())
    return World(layout, index, copies, repeats)


def curated(layout: Layout) -> list[dict[str, object]]:
    return read_all(layout.dataset("curated_pairs", "a")).to_pylist()


def rejects(layout: Layout) -> dict[bytes, dict[str, object]]:
    return {r["uid"]: r for r in read_all(layout.rejects("dedupe", "a")).to_pylist()}


def file_hashes(directory: str) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(directory).rglob("*.parquet")
    }


def test_every_copy_is_dropped_with_its_reference_and_nothing_else(world: World) -> None:
    dropped = {u: r for u, r in rejects(world.layout).items() if r["reason"] == "reference_copy"}
    assert {u: match_of(str(r["detail"])).reference for u, r in dropped.items()} == world.copies
    for reject in dropped.values():
        assert 0 < len(reject["image"]) < 2048


def test_of_identical_files_the_caption_of_most_words_then_the_surest_stays(world: World) -> None:
    sure = {r["uid"]: r["lang_score"] for r in curated(world.layout)}
    rank = {r["uid"]: (-len(set(r["caption_raw"].split())), -sure[r["uid"]]) for r in world.repeats}
    winner = min(rank, key=lambda uid: (rank[uid], uid))
    dropped = {u: r for u, r in rejects(world.layout).items() if r["reason"] == "repeat"}
    assert {r["uid"] for r in world.repeats} - set(dropped) == {winner}
    assert {repeat_of(str(r["detail"])) for r in dropped.values()} == {(winner, -1, None)}
    assert winner in read_all(world.layout.dataset("deduped_pairs", "a")).column("uid").to_pylist()


def test_rows_add_up_and_keep_the_contract(world: World) -> None:
    done = ledger.require_success(world.layout.dataset("deduped_pairs", "a"))
    curated = ledger.require_success(world.layout.dataset("curated_pairs", "a"))
    assert done.funnel.rows_in == curated.rows
    assert dict(done.funnel.dropped) == {"reference_copy": len(world.copies), "repeat": 3}
    found = read_all(world.layout.dataset("deduped_pairs", "a"))
    assert found.num_rows == done.rows
    assert schemas.violations(schemas.DEDUPED_PAIRS, found.schema) == []


def test_the_hashes_say_what_made_them_when_the_pairs_were_curated(
    world: World, tmp_path: Path
) -> None:
    other = Layout(str(tmp_path))
    shutil.copytree(world.layout.dataset("curated_pairs", "a"), other.dataset("curated_pairs", "a"))
    (tmp_path / "coco_hash_index").symlink_to(Path(world.layout.root) / "coco_hash_index")
    older = {
        b"numpy": b"0.1",
        b"scipy": b"0.2",
        b"hashed_picture": b"whole",
        b"decoders": b"eyes 1",
    }
    parts = sorted(Path(other.dataset("curated_pairs", "a")).glob("*.parquet"))
    for part in parts:
        table = pq.read_table(part)
        pq.write_table(table.replace_schema_metadata(table.schema.metadata | older), part)
    marker = Path(other.dataset("curated_pairs", "a"), ledger.SUCCESS)
    size = sum(part.stat().st_size for part in parts)
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"bytes": size}))
    dedupe_pairs("a", other, CONFIG, Engine())
    made_with = read_all(world.layout.dataset("curated_pairs", "a")).schema.metadata
    told = read_all(other.dataset("deduped_pairs", "a")).schema.metadata
    assert older.items() <= told.items()
    for name in (b"hash_algorithm", b"imagehash", b"pillow"):
        assert told[name] == made_with[name]


def test_brute_force_finds_nothing_left_and_would_find_a_copy(world: World) -> None:
    assert verify_no_reference_copies(world.layout, "a", CONFIG, 1000) == []
    try:
        dedupe_pairs("a", world.layout, dataclasses.replace(CONFIG, confirm=0), Engine())
        left = verify_no_reference_copies(world.layout, "a", CONFIG, 1000)
    finally:
        dedupe_pairs("a", world.layout, CONFIG, Engine())
    assert left
    assert {r.match.reference for r in left} <= set(world.copies.values())
    assert {bytes.fromhex(r.uid) for r in left} <= set(world.copies)


@pytest.mark.parametrize("mode", [Mode.FLAG, Mode.REPORT])
def test_copies_are_kept_and_flagged_with_their_reference(world: World, mode: Mode) -> None:
    config = dataclasses.replace(CONFIG, mode=mode)
    directory = world.layout.dataset("deduped_pairs", "a")
    try:
        done = dedupe_pairs("a", world.layout, config, Engine())
        rows = read_all(directory).to_pylist()
        dropped = rejects(world.layout)
        assert verify_no_reference_copies(world.layout, "a", config, 1000) == []
        overlap = pq.read_table(f"{directory}/{OVERLAP_FILE}").to_pylist()
    finally:
        dedupe_pairs("a", world.layout, CONFIG, Engine())
    flagged = {r["uid"]: r["dup_of"] for r in rows if r["dup_of"] is not None}
    repeats = {u: repeat_of(str(r["detail"])) for u, r in dropped.items()}
    # Copies of one reference may be near-identical to each other: then the best of them is kept.
    for uid, reference in world.copies.items():
        assert flagged[uid if uid in flagged else repeats[uid].kept_uid] == reference
    assert set(flagged) <= set(world.copies)
    assert all(0 <= r["dup_distance"] <= CONFIG.confirm for r in rows if r["uid"] in flagged)
    assert set(done.funnel.dropped) == {"repeat", "near_repeat"}
    assert {r["reference"] for r in overlap} == set(world.copies.values())
    assert sum(r["pairs"] for r in overlap) == len(flagged)
    assert done.details["overlapping_references"] == len(REFERENCES)


def test_dropped_copies_are_listed_by_reference(world: World) -> None:
    overlap = pq.read_table(f"{world.layout.dataset('deduped_pairs', 'a')}/{OVERLAP_FILE}")
    assert overlap.column("reference").to_pylist() == sorted(set(world.copies.values()))
    assert sum(overlap.column("pairs").to_pylist()) == len(world.copies)


def test_a_second_run_changes_no_file_and_a_fresh_one_writes_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    directory = world.layout.dataset("deduped_pairs", "a")
    before = {p: p.stat().st_mtime_ns for p in Path(directory).rglob("*") if p.is_file()}
    dedupe_pairs("a", world.layout, CONFIG, Engine())
    assert {p: p.stat().st_mtime_ns for p in Path(directory).rglob("*") if p.is_file()} == before

    fresh = Layout(str(tmp_path))
    for name in ("curated_pairs/batch=a", "coco_hash_index"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(Path(world.layout.root) / name)
    dedupe_pairs("a", fresh, CONFIG, Engine())
    assert file_hashes(fresh.dataset("deduped_pairs", "a")) == file_hashes(directory)
    assert file_hashes(fresh.rejects("dedupe", "a")) == file_hashes(
        world.layout.rejects("dedupe", "a")
    )


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    there = Layout(str(tmp_path))
    (tmp_path / "fetched_pairs").symlink_to(Path(world.layout.root) / "fetched_pairs")
    references = str(Path(world.layout.root).parent / "references")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        engine = Engine("DaskRunner", (f"--dask_client_address={cluster.scheduler_address}",))
        for run in (
            lambda: build_index(references, there, CONFIG, engine),
            lambda: curate_pairs("a", there, CURATE, engine),
            lambda: dedupe_pairs("a", there, CONFIG, engine),
        ):
            run()
            for client in list(Client._instances):  # Beam leaves them open
                client.close()
    index = there.dataset("coco_hash_index")
    assert file_hashes(index) == file_hashes(world.layout.dataset("coco_hash_index"))
    for name in ("curated_pairs", "deduped_pairs"):
        assert file_hashes(there.dataset(name, "a")) == file_hashes(world.layout.dataset(name, "a"))


def test_the_index_counts_what_it_could_not_hash(world: World) -> None:
    funnel = world.index.funnel
    assert (funnel.rows_in, funnel.kept) == (len(REFERENCES) + 2, len(REFERENCES))
    assert dict(funnel.dropped) == {"damaged_image": 1, "low_information": 1}


def test_the_index_measures_itself(world: World) -> None:
    measured = world.index.details["measured"]
    for attack in ("none", "jpeg_75", "half_size", "mirror", "border_black"):
        assert measured["recall"][attack] == {"tried": 8, "caught": 8}, attack
    (others,) = measured["false_flags"]
    assert (others["tried"], others["flagged"]) == (8, 0)
    assert 0.2 < others["upper_95"] < 0.4


def test_a_changed_index_is_not_read(world: World, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "data"))
    write_references(tmp_path / "references")
    built = build_index(str(tmp_path / "references"), layout, CONFIG)
    assert built.content == world.index.content
    assert (Path(tmp_path) / "data/coco_hash_index/measured/recall.png").stat().st_size > 1000
    path = tmp_path / "data" / "coco_hash_index" / "hashes.parquet"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="build the index again"):
        load_index(layout.dataset("coco_hash_index"), built.content, CONFIG)
    (tmp_path / "data" / "deduped_pairs").symlink_to(Path(world.layout.root) / "deduped_pairs")
    with pytest.raises(ValueError, match="build the index again"):
        verify_no_reference_copies(layout, "a", CONFIG, 10)


def test_other_crops_than_the_index_has_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="build the index again"):
        dedupe_pairs("a", world.layout, dataclasses.replace(CONFIG, crops=(5,)), Engine())


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="val2014"):
        build_index(str(tmp_path / "nothing"), Layout(str(tmp_path)), CONFIG)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="mode must be"):
        DedupeConfig(mode="keep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="radius must be"):
        DedupeConfig(radius=65)


def test_an_empty_batch_stays_empty(world: World, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    (tmp_path / "coco_hash_index").symlink_to(Path(world.layout.root) / "coco_hash_index")
    fetched_pairs(layout, "a", [])
    curate_pairs("a", layout, CURATE, Engine())
    done = dedupe_pairs("a", layout, CONFIG, Engine())
    assert (done.funnel.rows_in, done.rows) == (0, 0)
    assert verify_no_reference_copies(layout, "a", CONFIG, 10) == []
