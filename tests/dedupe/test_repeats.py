from pathlib import Path

import pytest
from fetched_corpus import artwork, encoded, fetched_pairs, on_white, read_all, row
from PIL import Image, ImageFilter

from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.transform import dedupe_pairs, repeat_of
from pipelines.layout import Layout
from pipelines.runners import Engine

CURATE = CurateConfig(min_side=32, min_bytes=100, short_side=64, encoding="png")
CONFIG = DedupeConfig(measured_references=0)
NAMES = ("snail", "guitar", "dragon", "camel", "pizza", "sailboat", "peacock")


def photo(name: str) -> Image.Image:
    """A picture like a photograph: large, and smooth."""
    large = on_white(artwork()[name]).resize((480, 360), Image.Resampling.BICUBIC)
    return large.filter(ImageFilter.GaussianBlur(2))


def pair(number: int, name: str, words: str, image: Image.Image, **how: object) -> dict:
    encoding = str(how.pop("encoding", "JPEG"))
    return row(number, f"a {name} {words}", encoded(image, encoding, **how))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / "elephant.png").write_bytes(artwork()["elephant"])
    layout = Layout(str(tmp_path / "data"))
    build_index(str(folder), layout, CONFIG)
    return layout


def run(layout: Layout, batch: str, *shards: list[dict], earlier: tuple[str, ...] = ()) -> None:
    fetched_pairs(layout, batch, *shards)
    curate_pairs(batch, layout, CURATE, Engine())
    dedupe_pairs(batch, layout, CONFIG, Engine(), earlier)


def kept(layout: Layout, batch: str) -> set[bytes]:
    return set(read_all(layout.dataset("deduped_pairs", batch)).column("uid").to_pylist())


def dropped(layout: Layout, batch: str) -> dict[bytes, tuple[str, bytes, int | None]]:
    found = {}
    for reject in read_all(layout.rejects("dedupe", batch)).to_pylist():
        repeat = repeat_of(reject["detail"])
        found[reject["uid"]] = (reject["reason"], repeat.kept_uid, repeat.earlier)
    return found


def test_a_picture_that_was_encoded_or_scaled_again_is_a_repeat(layout: Layout) -> None:
    originals = [pair(i, n, "that somebody drew", photo(n)) for i, n in enumerate(NAMES)]
    again = [pair(20 + i, n, "again", photo(n), quality=60) for i, n in enumerate(NAMES)]
    small = [
        pair(40 + i, n, "made small", photo(n).resize((240, 180)), quality=85)
        for i, n in enumerate(NAMES)
    ]
    run(layout, "a", originals + again, small)
    assert kept(layout, "a") == {r["uid"] for r in originals}
    uids = [r["uid"] for r in originals]
    assert dropped(layout, "a") == {
        r["uid"]: ("near_repeat", uids[i % len(NAMES)], None) for i, r in enumerate(again + small)
    }


def test_the_same_drawing_in_another_colour_is_no_repeat(layout: Layout) -> None:
    red, green, blue = photo("dragon").split()
    other = Image.merge("RGB", (green.point(lambda v: v * 0.9), red, blue))
    rows = [pair(1, "dragon", "that somebody drew", photo("dragon"))]
    run(layout, "a", [*rows, pair(2, "dragon", "in another colour", other)])
    assert len(kept(layout, "a")) == 2


def test_flat_pictures_are_no_repeats_of_each_other(layout: Layout) -> None:
    flat = []
    for number in range(3):
        image = Image.new("RGB", (64, 64), (200, 200, 200))
        image.paste((255 - 40 * number, 180, 200), (30, 30, 34, 34))
        flat.append(pair(number, "field", "that is nearly grey", image, encoding="PNG"))
    fetched_pairs(layout, "a", flat)
    curate_pairs("a", layout, CurateConfig(**vars(CURATE) | {"min_contrast": 0.0}), Engine())
    done = dedupe_pairs("a", layout, CONFIG, Engine())
    assert done.rows == done.details["no_decision"] == 3


def test_what_an_earlier_batch_kept_is_dropped_from_a_later_one(layout: Layout) -> None:
    first = [pair(i, n, "that somebody drew", photo(n)) for i, n in enumerate(NAMES[:4])]
    run(layout, "a", first)
    same = pair(10, NAMES[0], "with far more words in its caption than the first", photo(NAMES[0]))
    near = pair(11, NAMES[1], "with more words than the first", photo(NAMES[1]), quality=60)
    own = [pair(12, NAMES[5], "that is new here", photo(NAMES[5]))]
    run(layout, "b", [same, near], own, earlier=("a",))
    assert kept(layout, "b") == {own[0]["uid"]}
    assert dropped(layout, "b") == {
        same["uid"]: ("repeat", first[0]["uid"], 0),
        near["uid"]: ("near_repeat", first[1]["uid"], 0),
    }
    # The third batch meets what the second dropped only through the first, and what it kept itself.
    third = [pair(20, NAMES[1], "yet again", photo(NAMES[1]), quality=70)]
    third += [pair(21, NAMES[5], "yet again", photo(NAMES[5]), quality=70)]
    run(layout, "c", third, earlier=("a", "b", "never-finished"))
    assert dropped(layout, "c") == {
        third[0]["uid"]: ("near_repeat", first[1]["uid"], 0),
        third[1]["uid"]: ("near_repeat", own[0]["uid"], 1),
    }


def test_the_order_of_rows_shards_and_batches_does_not_change_the_set(layout: Layout) -> None:
    a = [
        pair(i, n, "once" if i % 2 else "one more time", photo(n)) for i, n in enumerate(NAMES[:4])
    ]
    a += [pair(10 + i, n, "again", photo(n), quality=60) for i, n in enumerate(NAMES[:4])]
    b = [pair(20 + i, n, "elsewhere", photo(n)) for i, n in enumerate(NAMES[4:])]
    run(layout, "a", a)
    run(layout, "b", b, earlier=("a",))
    once = kept(layout, "a"), kept(layout, "b")
    run(layout, "b", b[::-1])
    run(layout, "a", a[5:], a[4::-1], earlier=("b",))
    assert (kept(layout, "a"), kept(layout, "b")) == once
    assert len(once[0]) == 4
