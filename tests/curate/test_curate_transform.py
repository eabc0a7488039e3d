import dataclasses
import hashlib
import io
from importlib.metadata import version
from pathlib import Path

import imagehash
import numpy as np
import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, read_all, row
from PIL import Image

from pipelines import ledger, parquet, schemas, storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.language import load_detector
from pipelines.curate.reasons import Reason
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

CONFIG = CurateConfig(min_side=32, min_bytes=200, short_side=48, encoding="png")
PICTURE = artwork()["rocket"]
GOOD = "a rocket that flies to the moon"


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def flat(level: int, dot: bool) -> Image.Image:
    image = Image.new("RGB", (400, 400), (level,) * 3)
    if dot:
        image.paste("black", (0, 0, 2, 2))
    return image


CASES: dict[Reason, tuple[str, bytes]] = {
    Reason.CAPTION_TOO_SHORT: ("rocket", PICTURE),
    Reason.CAPTION_TOO_LONG: (" ".join(f"w{i}" for i in range(300)), PICTURE),
    Reason.CAPTION_REPETITIVE: ("sale sale sale sale", PICTURE),
    Reason.CAPTION_BOILERPLATE: ("photographed on 12 May 2019", PICTURE),
    Reason.LANGUAGE: ("eine Rakete fliegt zum Mond und zurück", PICTURE),
    Reason.TOO_FEW_BYTES: (GOOD, encoded(Image.new("RGB", (40, 40)))),
    Reason.NOT_AN_IMAGE: (GOOD, b"<html>" + b" " * 500),
    Reason.TOO_MANY_PIXELS: (GOOD, encoded(Image.new("1", (1001, 1000)), "PNG")),
    Reason.DAMAGED_IMAGE: (GOOD, encoded(noise(80, 80))[:-4000]),
    Reason.ASPECT_RATIO: (GOOD, encoded(noise(201, 100))),
    Reason.IMAGE_TOO_SMALL: (GOOD, encoded(noise(31, 40))),
    Reason.SINGLE_COLOUR: (GOOD, encoded(flat(90, dot=False))),
    Reason.LOW_INFORMATION: (GOOD, encoded(flat(90, dot=True))),
}
SMALL_LIMIT = dataclasses.replace(CONFIG, max_pixels=1_000_000)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    found = Layout(str(tmp_path_factory.mktemp("curate")))
    names = sorted(artwork())[::40]
    kept = [row(i, f" {n}\tas an emoji ", artwork()[n]) for i, n in enumerate(names)]
    bad = [row(1000 + i, caption, data) for i, (caption, data) in enumerate(CASES.values())]
    lost = [row(2000, GOOD, None, outcome="http_404")]
    fetched_pairs(found, "a", kept[::2] + bad, lost + kept[1::2])
    curate_pairs("a", found, SMALL_LIMIT, Engine())
    return found


def test_every_rule_drops_its_row_for_its_own_reason(layout: Layout) -> None:
    rejects = {r["url"]: r for r in read_all(layout.rejects("curate", "a")).to_pylist()}
    for number, (reason, (caption, _)) in enumerate(CASES.items(), 1000):
        found = rejects[f"http://example.org/{number}"]
        assert (found["reason"], found["caption_raw"]) == (reason, caption)
        assert found["stage"] == schemas.Stage.CURATE
    detected = load_detector(CONFIG.detector)([CASES[Reason.LANGUAGE][0]])
    (detail,) = [r["detail"] for r in rejects.values() if r["reason"] == Reason.LANGUAGE]
    assert detail == f"de {detected.score[0].as_py():.2f}"


def test_exhibits_are_there_for_everything_that_is_a_picture(layout: Layout) -> None:
    none = {Reason.NOT_AN_IMAGE, Reason.DAMAGED_IMAGE, Reason.TOO_MANY_PIXELS}
    for reject in read_all(layout.rejects("curate", "a")).to_pylist():
        assert (reject["image"] is None) == (reject["reason"] in none), reject["reason"]


def test_only_fetched_rows_come_in_and_all_have_an_outcome(layout: Layout) -> None:
    done = ledger.require_success(layout.dataset("curated_pairs", "a"))
    fetched = read_all(layout.dataset("fetched_pairs", "a"))
    assert done.funnel.rows_in == fetched.num_rows - 1
    assert set(CASES) <= set(done.funnel.dropped)
    assert done.rows == done.funnel.kept > 80


def test_kept_rows_hold_what_the_contract_says(layout: Layout) -> None:
    table = read_all(layout.dataset("curated_pairs", "a"))
    assert schemas.violations(schemas.CURATED_PAIRS, table.schema) == []
    told = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    assert told["config_hash"]
    for package in ("imagehash", "numpy", "pillow", "scipy"):
        assert told[package] == version(package)
    assert "hash sizes 8 and 16" in told["hash_algorithm"]
    assert told["hashed_picture"] == "short side at least 256, or the original's if less"
    assert f"simplejpeg {version('simplejpeg')}" in told["decoders"]
    originals = {
        r["uid"]: r["image"] for r in read_all(layout.dataset("fetched_pairs", "a")).to_pylist()
    }
    for pair in table.to_pylist():
        original = originals[pair["uid"]]
        assert pair["image_sha256"] == hashlib.sha256(original).digest()
        assert (pair["width"], pair["height"], pair["aspect"]) == (72, 72, 1.0)
        assert pair["caption"] == " ".join(pair["caption_raw"].split())
        assert pair["lang"] == "en"
        assert Image.open(io.BytesIO(pair["image"])).size == (48, 48)
        upright = on_white(original)
        for size, column in ((8, "phash64"), (16, "phash256")):
            bits = imagehash.phash(upright, size).hash
            assert pair[column] == np.packbits(bits).tobytes()


def test_a_killed_run_goes_on_and_gives_the_bytes_of_one_that_was_not(
    layout: Layout, tmp_path: Path
) -> None:
    other = Layout(str(tmp_path))
    (tmp_path / "fetched_pairs").symlink_to(Path(layout.root) / "fetched_pairs")
    directory = Path(other.dataset("curated_pairs", "a"))
    curate_pairs("a", other, SMALL_LIMIT, Engine())
    (directory / ledger.SUCCESS).unlink()
    (directory / "_receipts" / "part-00001.parquet.json").unlink()
    untouched = (directory / "part-00000.parquet").stat().st_mtime_ns
    done = curate_pairs("a", other, SMALL_LIMIT, Engine())
    assert (directory / "part-00000.parquet").stat().st_mtime_ns == untouched
    assert done.content == ledger.require_success(layout.dataset("curated_pairs", "a")).content


def test_new_thresholds_are_applied(layout: Layout, tmp_path: Path) -> None:
    other = Layout(str(tmp_path))
    (tmp_path / "fetched_pairs").symlink_to(Path(layout.root) / "fetched_pairs")
    strict = dataclasses.replace(SMALL_LIMIT, min_side=73)
    first = curate_pairs("a", other, SMALL_LIMIT, Engine())
    second = curate_pairs("a", other, strict, Engine())
    assert second.fingerprint != first.fingerprint
    assert second.rows == 0
    assert read_all(other.dataset("curated_pairs", "a")).num_rows == 0


def test_a_batch_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="finish the stage that writes it first"):
        curate_pairs("none", Layout(str(tmp_path)), CONFIG, Engine())


def test_row_groups_stay_small(layout: Layout) -> None:
    for shard in storage.list_files(layout.dataset("curated_pairs", "a"), ".parquet"):
        assert all(b.num_rows <= 512 for b in parquet.read_batches(shard, rows=10_000))


def test_configuration_is_checked() -> None:
    for wrong, message in (
        ({"short_side": 0}, "short_side"),
        ({"quality": 0}, "quality"),
        ({"max_pixels": 10**9}, "max_pixels"),
        ({"min_aspect": 3.0}, "min_aspect"),
        ({"detector": "none"}, "detector"),
        ({"encoding": "gif"}, "encoding"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(CONFIG, **wrong)


def test_a_batch_of_which_nothing_was_fetched_is_finished_and_empty(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    fetched_pairs(layout, "a", [row(0, GOOD, None, outcome="http_404")], [])
    done = curate_pairs("a", layout, CONFIG, Engine())
    assert (done.funnel.rows_in, done.rows) == (0, 0)
    found = read_all(layout.dataset("curated_pairs", "a"))
    assert schemas.violations(schemas.CURATED_PAIRS, found.schema) == []
