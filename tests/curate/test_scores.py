import functools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from fetched_corpus import artwork, fetched_pairs, read_all, row
from PIL import Image, ImageDraw, ImageFont

from pipelines.curate.config import CurateConfig
from pipelines.curate.score_models import nsfw_score, text_score
from pipelines.curate.scores import Score, Scorer, score_pairs
from pipelines.curate.transform import curate_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine

CONFIG = CurateConfig(min_side=32, min_bytes=100, short_side=48, encoding="png")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    found = Layout(str(tmp_path_factory.mktemp("scores")))
    names = sorted(artwork())[::100]
    rows = [row(n, f"{name} as an emoji", artwork()[name]) for n, name in enumerate(names)]
    fetched_pairs(found, "a", rows[::2], rows[1::2])
    curate_pairs("a", found, CONFIG, Engine())
    return found


def load(times: float) -> Scorer:
    """Stands for a model of another room: likes red, and says nothing about hearts."""

    def score(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        red = [times * np.asarray(image)[..., 0].mean() for image in images]
        hearts = ["heart" in caption for caption in captions]
        return np.where(hearts, np.nan, red).astype(np.float32)

    return score


def test_an_injected_scorer_gives_a_column_in_the_order_of_the_pairs(layout: Layout) -> None:
    score = Score("redness", "mean red, 0 to 1", functools.partial(load, 1 / 255), "red 1")
    done = score_pairs("a", layout, score, Engine())
    pairs = read_all(layout.dataset("curated_pairs", "a"))
    scores = read_all(layout.dataset("redness_scores", "a"))
    assert scores.column("uid").to_pylist() == pairs.column("uid").to_pylist()
    assert done.rows == pairs.num_rows == done.funnel.kept
    assert (scores.schema.metadata or {})[b"model"] == b"red 1"
    for caption, value in zip(
        pairs.column("caption").to_pylist(), scores.column("redness").to_pylist(), strict=True
    ):
        assert (value is None) == ("heart" in caption)
        assert value is None or 0 <= value <= 1


def test_another_model_is_another_run(layout: Layout) -> None:
    first, again, other = (
        score_pairs("a", layout, Score("twice", "", functools.partial(load, n), f"{n}"), Engine())
        for n in (1.0, 1.0, 2.0)
    )
    assert first == again
    assert first.content != other.content


def test_a_scorer_that_forgets_a_row_fails(layout: Layout) -> None:
    def forgetful() -> Scorer:
        return lambda images, captions: np.zeros(len(images) - 1, np.float32)

    with pytest.raises(Exception, match=re.escape("but scores of shape")):
        score_pairs("a", layout, Score("lost", "", forgetful, "1"), Engine())


def written() -> Image.Image:
    image = Image.new("RGB", (341, 256), "navy")
    for y in (30, 90, 150):
        font = ImageFont.load_default(size=30)
        ImageDraw.Draw(image).text((20, y), "SALE 50% OFF TODAY", fill="white", font=font)
    return image


def test_text_is_seen_where_it_is() -> None:
    score = text_score()
    empty, full = score.load()([Image.new("RGB", (341, 256), "navy"), written()], ["", ""])
    assert empty < 0.001
    assert 0.02 < full < 0.5
    assert score.model.startswith("rapidocr-onnxruntime 1.4.4")


def test_drawings_are_no_pornography_and_alone_or_together_score_the_same(layout: Layout) -> None:
    score_pairs("a", layout, nsfw_score(), Engine())
    values = read_all(layout.dataset("nsfw_scores", "a")).column("nsfw").to_pylist()
    assert max(values) < 0.5
    scorer = nsfw_score().load()
    images = [written(), Image.new("RGB", (256, 256), "pink")]
    together = scorer(images, ["", ""])
    assert together.tolist() == [float(scorer([image], [""])[0]) for image in images]
