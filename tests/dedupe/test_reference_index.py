import dataclasses
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fetched_corpus import artwork, encoded, on_white
from PIL import Image
from torture_images import flat_png, many_scans

from pipelines import ledger
from pipelines.crawl.config import HttpConfig
from pipelines.curate.config import CurateConfig
from pipelines.dedupe import reference_hashing, reference_index
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_hashing import queries_of
from pipelines.dedupe.reference_index import reference_pictures, write_index
from pipelines.dedupe.references import ReferenceSource, list_references
from pipelines.dedupe.search import load_index, read_table
from pipelines.ledger import Finished
from pipelines.runners import Engine

CONFIG = DedupeConfig(measured_references=0)
NAMES = ("snail", "guitar", "dragon", "camel", "pizza")


def build(source: str | ReferenceSource, output: Path, config: DedupeConfig = CONFIG) -> Finished:
    source = ReferenceSource(source) if isinstance(source, str) else source
    return write_index(source, str(output), config, Engine())


def names_in(output: Path) -> list[str]:
    return list(read_table(str(output)).names)


def hashes_in(output: Path) -> bytes:
    return (output / "hashes.parquet").read_bytes()


def write_pictures(folder: Path, names: tuple[str, ...] = NAMES, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{prefix}{name}.png").write_bytes(artwork()[name])


def annotations(folder: Path, name: str, files: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    images = [{"id": i, "file_name": file} for i, file in enumerate(files)]
    (folder / name).write_text(json.dumps({"info": {}, "images": images, "annotations": []}))


def test_ms_coco_s_own_lists_are_held_against_its_files(tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    prefix = "COCO_val2014_"
    write_pictures(coco / "val2014", NAMES[:3], prefix)
    write_pictures(coco / "val2017", NAMES[3:4])
    listed = [f"{prefix}{name}.png" for name in (*NAMES[:2], "lost")]
    annotations(coco / "annotations", "captions_val2014.json", listed)
    annotations(coco / "annotations", "captions_train2014.json", ["COCO_train2014_1.jpg"])
    (coco / "annotations" / "instances_val2014.json").write_text("never read: it is larger" * 999)
    done = build(str(coco), tmp_path / "index")
    assert names_in(tmp_path / "index") == [
        "val2014/COCO_val2014_dragon.png",
        "val2014/COCO_val2014_guitar.png",
        "val2014/COCO_val2014_snail.png",
        "val2017/camel.png",
    ]
    assert done.details["splits"] == {
        "train2014": {"expected": 1, "found": 0, "missing": 0, "extra": 0},
        "val2014": {"expected": 3, "found": 2, "missing": 1, "extra": 1},
    }
    assert done.details["missing"] == ["val2014/COCO_val2014_lost.png"]
    assert (done.funnel.rows_in, done.funnel.kept) == (5, 4)
    assert dict(done.funnel.dropped) == {"missing_file": 1}


def test_cub_200_beside_another_set_is_held_against_its_list(tmp_path: Path) -> None:
    cub = tmp_path / "all" / "CUB_200_2011"
    write_pictures(cub / "images" / "001.Albatross", NAMES[:2])
    write_pictures(tmp_path / "all" / "others", NAMES[2:3])
    cub.joinpath("images.txt").write_text("1 001.Albatross/snail.png\n2 001.Albatross/gone.png\n")
    listing = list_references(ReferenceSource(str(tmp_path / "all")))
    assert [r.name for r in listing.references][-1] == "others/dragon.png"
    assert listing.missing == ("CUB_200_2011/images/001.Albatross/gone.png",)
    counts = {"expected": 2, "found": 1, "missing": 1, "extra": 1}
    assert listing.splits == {"CUB_200_2011/images.txt": counts}


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_files_of_images_give_the_same_hashes(tmp_path: Path, nested: bool) -> None:
    write_pictures(tmp_path / "folder")
    data = [artwork()[name] for name in NAMES]
    files = [f"{name}.png" for name in NAMES]
    pictures = [{"bytes": d, "path": f} for d, f in zip(data, files, strict=True)]
    table = pa.table({"photo": pictures} if nested else {"photo": data, "file": files})
    for part, rows in (("0", table.slice(0, 3)), ("1", table.slice(3))):
        pq.write_table(rows, tmp_path / f"part-{part}.parquet", row_group_size=2)
    name_column = None if nested else "file"
    source = ReferenceSource(str(tmp_path / "*.parquet"), "photo", name_column)
    build(source, tmp_path / "a")
    build(str(tmp_path / "folder"), tmp_path / "b")
    assert names_in(tmp_path / "a") == sorted(files)
    assert hashes_in(tmp_path / "a") == hashes_in(tmp_path / "b")


def test_unknown_columns_and_doubled_names_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"", b""], "file": ["a", "a"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"no column 'photo', only image, file"):
        list_references(ReferenceSource(str(tmp_path / "x.parquet"), "photo"))
    with pytest.raises(ValueError, match="two images named 'a'"):
        list_references(ReferenceSource(str(tmp_path / "x.parquet"), "image", "file"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    write_pictures(tmp_path / "web")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "web"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


def test_a_list_of_urls_is_fetched_once(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    base, asked = server
    lines = ["# references", *(f"{base}/{name}.png" for name in (*NAMES, "lost"))]
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    config = HttpConfig("nobody@localhost", allow_networks=("127.0.0.0/8",), domain_delay_s=0)
    source = ReferenceSource(str(tmp_path / "urls.txt"), http=config)
    done = build(source, tmp_path / "index")
    assert done.funnel.kept == len(NAMES)
    assert sum(done.funnel.dropped.values()) == done.details["try_again"] == 1
    asked.clear()
    again = build(source, tmp_path / "index")
    pictures = [path for path in asked if path.endswith(".png")]
    assert set(pictures) == {"/lost.png"}
    assert again.content == done.content
    with pytest.raises(ValueError, match="how they may be asked for"):
        build(ReferenceSource(str(tmp_path / "urls.txt")), tmp_path / "other")


def test_only_new_and_changed_images_are_hashed_and_the_bytes_are_a_fresh_build_s(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder"
    config = DedupeConfig(measured_references=2)
    write_pictures(folder, NAMES[:3])
    assert build(str(folder), tmp_path / "index", config).details["hashed"] == 3
    write_pictures(folder, NAMES[4:])
    (folder / "snail.png").unlink()
    (folder / "guitar.png").write_bytes(artwork()["camel"])
    # Written again, but the same: read, not hashed.
    os.utime(folder / "dragon.png", ns=(1, 1))
    done = build(str(folder), tmp_path / "index", config)
    assert names_in(tmp_path / "index") == ["dragon.png", "guitar.png", "pizza.png"]
    fresh = build(str(folder), tmp_path / "fresh", config)
    for name in ("hashes.parquet", "references/references.parquet", "measured/recall.parquet"):
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert done.content == fresh.content
    assert not (tmp_path / "index" / "_tasks").exists()
    before = (tmp_path / "index" / "_SUCCESS").stat().st_mtime_ns
    build(str(folder), tmp_path / "index", config)
    assert (tmp_path / "index" / "_SUCCESS").stat().st_mtime_ns == before


def test_a_table_that_was_changed_is_not_built_upon(tmp_path: Path) -> None:
    write_pictures(tmp_path / "folder", NAMES[:2])
    done = build(str(tmp_path / "folder"), tmp_path / "index")
    good = hashes_in(tmp_path / "index")
    (tmp_path / "index" / "hashes.parquet").write_bytes(good[::-1])
    write_pictures(tmp_path / "folder", NAMES[2:3])
    assert build(str(tmp_path / "folder"), tmp_path / "index").details["hashed"] == 3
    (tmp_path / "folder" / f"{NAMES[2]}.png").unlink()
    assert build(str(tmp_path / "folder"), tmp_path / "index").content == done.content


def test_the_index_says_what_it_was_made_with_and_shows_its_images(tmp_path: Path) -> None:
    write_pictures(tmp_path / "folder", NAMES[:2])
    build(str(tmp_path / "folder"), tmp_path / "index")
    metadata = pq.read_schema(tmp_path / "index" / "hashes.parquet").metadata
    for name in (b"hash_algorithm", b"imagehash", b"numpy", b"pillow", b"scipy", b"crops"):
        assert metadata[name]
    pictures = reference_pictures(str(tmp_path / "index"), ["snail.png", "unknown"])
    assert list(pictures) == ["snail.png"]
    assert pictures["snail.png"][8:12] == b"WEBP"
    file = tmp_path / "index" / "references" / "references.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"references.parquet is not what was built"):
        reference_pictures(str(tmp_path / "index"), ["snail.png"])


def test_a_given_set_of_unrelated_pictures_is_measured_against(tmp_path: Path) -> None:
    write_pictures(tmp_path / "references", NAMES[:3])
    write_pictures(tmp_path / "others", NAMES[3:])
    image = on_white(artwork()[NAMES[0]])
    (tmp_path / "others" / "copy.jpg").write_bytes(encoded(image, "JPEG", quality=80))
    (tmp_path / "others" / "flat.png").write_bytes(encoded(Image.new("RGB", (40, 40))))
    source, others = (ReferenceSource(str(tmp_path / n)) for n in ("references", "others"))
    done = write_index(source, str(tmp_path / "index"), CONFIG, Engine(), others)
    against = {row["against"]: row for row in done.details["measured"]["false_flags"]}
    assert (against["the given set"]["tried"], against["the given set"]["flagged"]) == (3, 1)
    assert (against["other references"]["tried"], against["other references"]["flagged"]) == (3, 0)


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(tmp_path: Path) -> None:
    write_pictures(tmp_path / "folder")
    here = build(str(tmp_path / "folder"), tmp_path / "a")
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    source = ReferenceSource(str(tmp_path / "folder"))
    there = write_index(source, str(tmp_path / "b"), CONFIG, Engine("in-process", options))
    assert here.content == there.content
    files = ledger.require_success(str(tmp_path / "b")).details["files"]
    for name, sha256 in files.items():
        assert hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() == sha256


def test_an_index_of_flat_pictures_is_empty_and_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    image = Image.new("RGB", (64, 64), "white")
    (tmp_path / "folder" / "flat.png").write_bytes(encoded(image))
    config = DedupeConfig(measured_references=3)
    done = build(str(tmp_path / "folder"), tmp_path / "index", config)
    assert (done.rows, done.details["no_decision"]) == (0, 1)
    index = load_index(str(tmp_path / "index"), done.content, config)
    assert index.match(queries_of([on_white(artwork()["snail"]), image])) == [None, None]


def test_any_file_system_will_do_and_the_index_is_loaded_once() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({f"/references/{name}.png": artwork()[name] for name in NAMES})
    source = ReferenceSource("memory://references")
    done = write_index(source, "memory://index", CONFIG, Engine())
    assert done.funnel.kept == len(NAMES)
    index = load_index("memory://index", done.content, CONFIG)
    assert load_index("memory://index", done.content, CONFIG) is index
    (match,) = index.match(queries_of([on_white(artwork()["snail"])]))
    assert match is not None
    assert (match.reference, match.variant) == ("snail.png", "full")


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_as_many_references_are_measured_as_were_asked_for(tmp_path: Path, asked: int) -> None:
    write_pictures(tmp_path / "folder")
    config = DedupeConfig(measured_references=asked)
    recalled = build(str(tmp_path / "folder"), tmp_path / "index", config).details["measured"]
    assert {row["tried"] for row in recalled["recall"].values()} == ({asked} if asked else set())


def test_cuts_find_copies_that_lost_a_corner(tmp_path: Path) -> None:
    write_pictures(tmp_path / "folder")
    config = DedupeConfig(measured_references=5)
    measured = []
    for name, recipe in (("a", config), ("b", dataclasses.replace(config, cuts=(6,)))):
        done = build(str(tmp_path / "folder"), tmp_path / name, recipe)
        measured.append(done.details["measured"]["recall"]["corner_6"]["caught"])
    assert measured[0] < measured[1] == 5


def test_a_reference_that_decoders_fall_over_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "folder")
    fresh = build(str(tmp_path / "folder"), tmp_path / "fresh")
    limited = CurateConfig(decoder_memory=48 << 20, decoder_seconds=1)
    monkeypatch.setattr(reference_hashing, "CurateConfig", lambda: limited)
    bombs = {"memory": flat_png(4000, 4000), "time": many_scans(2000, 2500)}
    bombs |= {"pixels": flat_png(9000, 8000), "nothing": b"\x89PNG\r\n\x1a\n"}
    for name, data in bombs.items():
        (tmp_path / "folder" / f"{name}.png").write_bytes(data)
    done = build(str(tmp_path / "folder"), tmp_path / "index")
    assert hashes_in(tmp_path / "index") == hashes_in(tmp_path / "fresh")
    assert done.funnel.kept == fresh.funnel.kept
    dropped = {"decoder_limits": 2, "too_many_pixels": 1, "damaged_image": 1}
    assert dict(done.funnel.dropped) == dropped


def test_a_build_that_was_killed_goes_on_from_its_finished_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "folder")
    fresh = build(str(tmp_path / "folder"), tmp_path / "fresh")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reference_index, "merge", killed)
        with pytest.raises(KeyboardInterrupt):
            build(str(tmp_path / "folder"), tmp_path / "index")
    assert not (tmp_path / "index" / "_SUCCESS").exists()
    monkeypatch.setattr(reference_hashing, "read_references", killed)
    assert build(str(tmp_path / "folder"), tmp_path / "index").content == fresh.content
