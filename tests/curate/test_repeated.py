import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from fetched_corpus import artwork, fetched_pairs, read_all, row

from pipelines import storage
from pipelines.curate.config import CurateConfig
from pipelines.curate.reasons import Reason
from pipelines.curate.repeated import Repeated, caption_of_many, count_repeated, placeholder
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

CONFIG = CurateConfig(
    min_side=32, min_bytes=100, encoding="png", max_image_urls=3, max_caption_images=2
)
NAMES = sorted(artwork())[::60]
SAME, OTHER = artwork()["rocket"], artwork()["sailboat"]


def rows() -> list[dict[str, object]]:
    """Four URLs of one file; three of another, one with two captions; one text for three."""
    found = [row(n, f"a picture with the number {n}", SAME) for n in range(4)]
    found += [row(10 + n, f"a sailboat with the number {n}", OTHER) for n in range(3)]
    found.append(row(10, "another text for the same sailboat", OTHER))
    shared = " the picture\tof the week "
    found += [row(20 + n, shared, artwork()[NAMES[n]]) for n in range(3)]
    found += [row(30 + n, "a text of two pictures", artwork()[NAMES[5 + n]]) for n in range(2)]
    # Rows that were not fetched count for nothing.
    found += [row(40 + n, "a text of two pictures", None, outcome="http_404") for n in range(5)]
    return found


def outcomes(layout: Layout) -> dict[str, str]:
    rejects = read_all(layout.rejects("curate", "a")).to_pylist()
    kept = read_all(layout.dataset("curated_pairs", "a")).to_pylist()
    return {p["url"] + p["caption_raw"]: "kept" for p in kept} | {
        r["url"] + r["caption_raw"]: r["reason"] for r in rejects
    }


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    found = Layout(str(tmp_path_factory.mktemp("repeated")))
    fetched_pairs(found, "a", rows()[::2], rows()[1::2])
    curate_pairs("a", found, CONFIG, Engine())
    return found


def test_placeholders_and_texts_below_everything_are_dropped(layout: Layout) -> None:
    found = outcomes(layout)
    for pair in rows():
        number = int(str(pair["url"]).rsplit("/", 1)[1])
        expected = {0: Reason.PLACEHOLDER, 2: Reason.CAPTION_OF_MANY_IMAGES}.get(number // 10)
        if pair["outcome"] == "ok":
            assert found[f"{pair['url']}{pair['caption_raw']}"] == (expected or "kept"), pair["url"]


def test_shards_in_another_order_give_the_same_set(layout: Layout, tmp_path: Path) -> None:
    other = Layout(str(tmp_path))
    fetched_pairs(other, "a", rows()[::-1][::3], rows()[::-1][1::3], rows()[::-1][2::3])
    curate_pairs("a", other, CONFIG, Engine())
    assert outcomes(other) == outcomes(layout)


def test_counts_do_not_depend_on_shards(layout: Layout) -> None:
    shards = storage.list_files(layout.dataset("fetched_pairs", "a"), ".parquet")
    found, again = count_repeated(shards, CONFIG), count_repeated(shards[::-1], CONFIG)
    assert [a.tolist() for a in found] == [a.tolist() for a in again]
    assert [len(keys) for keys in found] == [1, 1]


def test_nothing_repeated_drops_nothing() -> None:
    none = count_repeated([], CONFIG)
    digest = pa.array([hashlib.sha256(b"x").digest()], pa.binary(32))
    assert isinstance(none, Repeated)
    assert placeholder(digest, none).to_pylist() == [None]
    assert caption_of_many(pa.array(["a text"]), none).to_pylist() == [None]
    assert placeholder(digest.slice(1), none).to_pylist() == []
