"""The contrastive training program from end to end: learned, interrupted, resumed, split."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from shape_corpus import captions, drawing, write_pairs
from tiny_training import Finished

from pipelines import storage
from pipelines.encode import bpe
from pipelines.encode.config import BpeConfig
from pipelines.layout import Layout
from training import recipes, sample, train_contrastive
from training.contrastive import report
from training.contrastive.checkpoint import load_embedder, model_id
from training.contrastive.columns import load_image_encoder, load_pair_scorer
from training.contrastive.rerank import load_ranker
from training.drawing.sampling import draw_codes, pictures_of
from training.dvae.images import to_tensor
from training.errors import InputError
from training.models.loading import load_dvae, load_transformer
from training.reporting import METRICS, read_metrics
from training.token_data import TokenData

UPDATES = tiny_training.tiny().contrastive_training.updates


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    found = Layout(str(tmp_path_factory.mktemp("contrastive")))
    write_pairs(found)
    recipe = tiny_training.tiny()
    config = BpeConfig(vocabulary=recipe.text.vocabulary, max_length=recipe.text.length)
    bpe.train_tokenizer(["a"], found, config)
    return found


def train(layout: Layout, output: Path, updates: int = 0) -> None:
    pairs = [layout.dataset("deduped_pairs", "a")]
    train_contrastive.train(tiny_training.NAME, pairs, layout.tokenizer, output, updates)


def arguments(layout: Layout, output: Path) -> list[str]:
    return [
        "--recipe", tiny_training.NAME, "--pairs", layout.dataset("deduped_pairs", "a"),
        "--tokenizer", layout.tokenizer, "--output", str(output),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model") / "contrastive"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, tiny_training.NAME, tiny_training.tiny)
        train(layout, output)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return output


def test_retrieval_is_printed_beside_chance(
    layout: Layout, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained / METRICS, tmp_path)
    files = storage.list_files(layout.dataset("deduped_pairs", "a"), ".parquet")
    splits = tiny_training.tiny().split
    found = report.write(load_embedder(trained), tmp_path, files, splits)
    lines = capsys.readouterr().out.splitlines()
    for split, line in zip(("validation", "held_out"), lines, strict=True):
        assert line.startswith(f"{split}, {found[f'{split}_pairs']} pairs, recall at 1 / 5: ")
        for name in ("image_to_text", "text_to_image", "chance"):
            at_1, at_5 = (float(found[f"{split}_{name}_at_{depth}"]) for depth in (1, 5))
            assert f"{name.replace('_', ' ')} {at_1:.1%} / {at_5:.1%}" in line


def test_it_learns_and_says_what_it_is_worth(trained: Path) -> None:
    losses = [line["loss"] for line in read_metrics(trained)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    summary = json.loads((trained / "final/summary.json").read_text())
    for split in ("validation", "held_out"):
        pairs = summary[f"{split}_pairs"]
        assert summary[f"{split}_chance_at_1"] == 1 / pairs
        for way in ("image_to_text", "text_to_image"):
            assert summary[f"{split}_{way}_at_1"] <= summary[f"{split}_{way}_at_5"] <= 1
    assert summary["validation_image_to_text_at_5"] > 1.3 * summary["validation_chance_at_5"]
    for name in ("retrieval.png", "curves.png", "final/tokenizer.json"):
        assert (trained / name).stat().st_size > 0
    assert not (trained / "checkpoints").exists()


def as_tensor(image: Image.Image) -> torch.Tensor:
    return to_tensor(np.array(image)[None])


def test_the_picture_of_a_caption_is_ranked_first(trained: Path) -> None:
    rank, texts = load_ranker(trained), captions()
    pictures = torch.cat([as_tensor(drawing(text)) for text in texts])
    best = [int(rank(pictures, text).argmax()) for text in texts]
    # One of 72 is right by chance.
    assert sum(place == row for row, place in enumerate(best)) > len(texts) / 4


def test_ranking_scoring_and_encoding_agree(trained: Path) -> None:
    texts = captions()[::30]
    images = [drawing(text) for text in texts]
    vectors = load_image_encoder(str(trained))(images)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    scores = load_pair_scorer(str(trained))(images, texts)
    rank = load_ranker(trained)
    ranked = [float(rank(as_tensor(i), t)[0]) for i, t in zip(images, texts, strict=True)]
    assert scores.tolist() == pytest.approx(ranked, abs=1e-5)


def test_a_copy_is_nearer_than_other_pictures(trained: Path) -> None:
    encode = load_image_encoder(str(trained))
    images = [drawing(text) for text in captions()]
    originals = encode(images)
    assert (originals * encode([i.copy() for i in images])).sum(axis=1) == pytest.approx(1)
    own = np.arange(len(images))
    for copies in (
        [ImageOps.mirror(image) for image in images],
        [image.crop((2, 1, 39, 31)) for image in images],
        [image.resize((100, 80), Image.Resampling.BILINEAR) for image in images],
    ):
        assert ((encode(copies) @ originals.T).argmax(axis=1) == own).mean() > 0.8


def test_a_stopped_run_ends_as_if_never_stopped(
    layout: Layout, trained: Path, tiny_recipe: str, tmp_path: Path
) -> None:
    output = tmp_path / "contrastive"
    program = tiny_training.start("training.train_contrastive", *arguments(layout, output))
    tiny_training.wait_for_update(program, output, 3)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=60)
    assert (program.returncode, errors) == (143, "")
    assert not (output / "final").exists()
    train(layout, output)
    one, other = (load_file(d / "final/model.safetensors") for d in (output, trained))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert [line["step"] for line in read_metrics(output)] == list(range(1, UPDATES + 1))
    before = (output / "final/model.safetensors").stat().st_mtime_ns
    train(layout, output)
    assert (output / "final/model.safetensors").stat().st_mtime_ns == before


def test_two_processes_do_the_update_of_one(
    layout: Layout, tiny_recipe: str, tmp_path: Path
) -> None:
    program = [str(Path(tiny_training.__file__)), "training.train_contrastive"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = tmp_path / "both"
    subprocess.run(
        [sys.executable, *torchrun, *program, *arguments(layout, both), "--updates", "2"],
        check=True,
        cwd=tiny_training.ROOT,
        env=tiny_training.environment(),
        capture_output=True,
    )
    train(layout, tmp_path / "one", updates=2)
    one, other = (load_file(tmp_path / d / "final/model.safetensors") for d in ("one", "both"))
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], atol=2e-4), name


def test_the_candidates_of_a_sheet_are_reranked(
    finished: Finished, trained: Path, tiny_recipe: str, tmp_path: Path
) -> None:
    sample.sample(
        finished.dalle, tmp_path, dvae=finished.dvae, dataset=finished.dataset, limit=4,
        candidates=3, rerank=trained,
    )  # fmt: skip
    facts = json.loads((tmp_path / "samples.json").read_text())
    assert facts["reranked_by"] == model_id(trained)
    assert len(facts["captions"]) == 4
    for line in facts["captions"]:
        assert line["scores"] == sorted(line["scores"], reverse=True)
    # A small model draws some candidates twice.
    assert any(len(set(line["scores"])) > 1 for line in facts["captions"])


def test_the_best_of_many_are_those_ranked_first(
    finished: Finished, trained: Path, tiny_recipe: str, tmp_path: Path
) -> None:
    caption, dvae, dataset = "a red heart", finished.dvae, finished.dataset
    sample.sample(
        finished.dalle, tmp_path, dvae, dataset, caption=[caption], candidates=12, best=3,
        rerank=trained,
    )  # fmt: skip
    encoder = TokenData(dataset, tiny_training.tiny()).encoder
    (drawn,) = draw_codes(load_transformer(finished.dalle), encoder, [caption], 12)
    pictures = pictures_of(load_dvae(dvae), drawn.codes)
    scores = load_ranker(trained)(pictures, caption)
    order = scores.argsort(descending=True, stable=True)[:3]
    assert order.tolist() != drawn.nats.argsort(stable=True)[:3].tolist()
    facts = json.loads((tmp_path / "caption-00/samples.json").read_text())
    assert facts["reranked_by"] == model_id(trained)
    assert facts["scores"] == pytest.approx(scores[order].tolist(), abs=1e-4)
    for place, number in enumerate(order.tolist()):
        with Image.open(tmp_path / f"caption-00/best-{place:02d}.png") as found:
            assert torch.equal(as_tensor(found)[0], pictures[number])


def test_the_model_is_one_that_can_be_loaded_without_its_recipe(trained: Path) -> None:
    embedder = load_embedder(trained)
    assert embedder.image_size == 16
    assert embedder.captions(["", "word " * 500, "日本 🙂 \x00"]).shape == (3, 16)


def test_few_pairs_are_one_batch_and_one_pair_is_refused(
    tiny_recipe: str, layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tiny_training.write_pairs(Layout(str(tmp_path / "data")), rows=12)
    few = tmp_path / "few"
    train_contrastive.train(tiny_recipe, [str(pairs)], layout.tokenizer, few, updates=2)
    told = re.search(
        r"warning: the data holds (\d+) pairs; a batch is these", capsys.readouterr().err
    )
    assert told
    assert 2 <= int(told[1]) < tiny_training.tiny().contrastive_training.batch
    assert (few / "final" / "_SUCCESS").exists()
    pairs = tiny_training.write_pairs(Layout(str(tmp_path / "one")), rows=1)
    with pytest.raises(InputError, match="at least 2 are needed; crawl more pairs"):
        train_contrastive.train(tiny_recipe, [str(pairs)], layout.tokenizer, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is not finished"):
        train_contrastive.train(tiny_recipe, [str(pairs)], str(tmp_path / "none"), tmp_path / "out")
