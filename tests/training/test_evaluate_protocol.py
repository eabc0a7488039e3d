"""The paper's protocol by the real command: MS-COCO and CUB, overlap, reranking, kill -9."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from PIL import Image
from reference_layouts import write_coco, write_cub
from safetensors.numpy import load_file
from tiny_training import Finished

from pipelines import parquet, schemas
from training import evaluate, recipes, train_contrastive
from training.contrastive.rerank import load_ranker
from training.drawing.sampling import pictures_of
from training.human.page import LISTING, read_pictures
from training.metrics.coco import coco
from training.metrics.drawings import Drawings, Painter
from training.metrics.features import load_network
from training.metrics.fidelity import blur_curve, compare
from training.models.loading import load_dvae, load_transformer
from training.recipes import recipe as recipe_named
from training.token_data import TokenData

CAPTIONS, CANDIDATES, JUDGED = 24, 64, 7
COPIED = 5


@pytest.fixture(scope="module")
def place(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference layouts, a contrastive model, and pairs of which some copy references."""
    root = tmp_path_factory.mktemp("protocol")
    write_coco(root / "coco", CAPTIONS)
    write_cub(root / "cub", 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, tiny_training.NAME, tiny_training.tiny)
        tokenizer, output = finished.layout.tokenizer, root / "contrastive"
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        train_contrastive.train(tiny_training.NAME, [str(finished.pairs)], tokenizer, output, 5)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    shutil.copytree(finished.pairs, root / "batch=a")
    part = root / "batch=a/part-00000.parquet"
    rows = pq.read_table(part).to_pylist()
    names = sorted(path.name for path in (root / "coco/val2014").iterdir())
    for row, name in zip(rows, names[:COPIED], strict=False):
        row["dup_of"], row["dup_distance"] = f"coco/val2014/{name}", 3
    table = pq.read_table(part).from_pylist(rows, schemas.DEDUPED_PAIRS)
    parquet.write(str(part), table.to_batches(), schemas.DEDUPED_PAIRS)
    return root


def arguments(finished: Finished, place: Path, output: Path) -> list[object]:
    return [
        *("--dalle", finished.dalle, "--dvae", finished.dvae, "--dataset", finished.dataset),
        *("--output", output, "--pairs", place / "batch=a", "--rerank", place / "contrastive"),
        *("--coco", place / "coco", "--coco-captions", CAPTIONS, "--cub", place / "cub"),
        *("--candidates", CANDIDATES, "--pictures", 8, "--human", JUDGED),
    ]


@pytest.fixture(scope="module")
def evaluated(finished: Finished, place: Path) -> Path:
    """The report of an evaluation that was killed while it drew, and started again."""
    output = place / "evaluation"
    codes = output / ".drawn/coco/codes"
    program = tiny_training.start("training.evaluate", *arguments(finished, place, output))
    until = time.monotonic() + 120
    while not list(codes.glob("part-*")):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    program.kill()
    program.communicate()
    before = {path: path.stat().st_mtime_ns for path in codes.glob("part-*")}
    assert len(before) == 1
    assert not (output / "evaluation.json").exists()
    program = tiny_training.start("training.evaluate", *arguments(finished, place, output))
    printed, errors = program.communicate(timeout=300)
    assert program.returncode == 0, errors
    assert "MS-COCO val2014: drawing 1,536 pictures" in printed
    assert len(list(codes.glob("part-*"))) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return output


def figures(output: Path) -> dict:
    found: dict = json.loads((output / "evaluation.json").read_text())
    return found


def test_numbers_are_equal_and_overlap_is_left_out(evaluated: Path) -> None:
    found = figures(evaluated)
    assert found["coco_fidelity_pictures"] == found["coco_pictures_compared"] == CAPTIONS
    assert found["coco_overlapping_pictures"] == COPIED
    assert found["coco_no_overlap_pictures_compared"] == CAPTIONS - COPIED
    assert found["coco_no_overlap_fid_blur_0"] != found["coco_fid_blur_0"]
    # Of CUB nothing was copied, so nothing is measured twice.
    assert found["cub_overlapping_pictures"] == 0
    assert found["cub_fidelity_pictures"] == 9
    assert found["cub_fidelity_distinct_references"] == 4
    assert not any(name.startswith("cub_no_overlap") for name in found)
    assert found["fidelity_references"] == "pictures"
    for name in ("coco_blur", "coco_reranking", "coco_samples", "cub_retrieval", "reconstruction"):
        assert (evaluated / f"{name}.png").stat().st_size > 0
    text = (evaluated / "report.html").read_text()
    for words in ("MS-COCO val2014", "CUB-200-2011, test split", "biased upwards for few pictures"):
        assert words in text


def test_the_curve_is_that_of_the_stored_candidates(
    finished: Finished, evaluated: Path, place: Path
) -> None:
    """FID of the best of the first n, from the files alone, without the program's own choice."""
    found = figures(evaluated)
    dvae, rank, network = (
        load_dvae(finished.dvae), load_ranker(place / "contrastive"), load_network(),
    )  # fmt: skip
    references = coco(place / "coco", CAPTIONS, 16)
    parts = sorted((evaluated / ".drawn/coco/codes").glob("part-*"))
    codes = np.concatenate([load_file(path)["part"] for path in parts]).astype(np.int64)
    assert codes.shape == (CAPTIONS, CANDIDATES, 16)
    real = blur_curve(network, references.open(), (0,))[0]
    for first in (1, 4, CANDIDATES):
        best = []
        for caption, row in zip(references.captions, codes, strict=True):
            drawn = pictures_of(dvae, torch.from_numpy(row[:first]))
            best.append(drawn[int(rank(drawn, caption).argmax())])
        side = blur_curve(network, [torch.stack(best)], (0,))[0]
        assert found[f"coco_fid_best_of_{first}"] == pytest.approx(
            compare(side, real).fid, rel=0.02
        )
    assert found["coco_fid_blur_0"] == found[f"coco_fid_best_of_{CANDIDATES}"]
    firsts = [name for name in found if name.startswith("coco_fid_best_of_")]
    assert len(firsts) == 7
    # `best` is of all candidates now: what people judge are these very pictures.
    listed = list(read_pictures(evaluated / "human" / LISTING).items())
    assert [caption for caption, _ in listed] == list(references.captions[:JUDGED])
    for (_, path), picture in zip(listed, best, strict=False):
        assert np.array_equal(np.asarray(Image.open(path)), picture.permute(1, 2, 0))


def test_pictures_are_restored_and_found(evaluated: Path) -> None:
    found = figures(evaluated)
    for prefix, pairs in (("", 8), ("coco_", CAPTIONS), ("cub_", 4)):
        assert 5 < found[f"{prefix}reconstruction_psnr_db"] < 60
        assert -1 <= found[f"{prefix}reconstruction_ssim"] <= 1
        assert 1 <= found[f"{prefix}reconstruction_codebook_perplexity"] <= 32
        assert found[f"{prefix}retrieval_pairs"] == pairs
        assert found[f"{prefix}retrieval_chance_at_5"] == min(5 / pairs, 1)
        for way in ("image_to_text", "text_to_image"):
            at_1, at_5 = (found[f"{prefix}retrieval_{way}_at_{n}"] for n in (1, 5))
            assert 0 <= at_1 <= at_5 <= 1


def test_a_finished_evaluation_draws_nothing_again(
    finished: Finished, place: Path, evaluated: Path, tiny_recipe: str
) -> None:
    before = figures(evaluated)
    drawn = evaluated / ".drawn"
    times = {path: path.stat().st_mtime_ns for path in drawn.rglob("part-*")}
    options = {"pairs": [str(place / "batch=a")], "rerank": place / "contrastive", "pictures": 8}
    models = (finished.dalle, finished.dvae, finished.dataset, evaluated)
    evaluate.evaluate(*models, **options, candidates=CANDIDATES)
    again = figures(evaluated)
    assert again == {name: before[name] for name in again}
    assert {path: path.stat().st_mtime_ns for path in times} == times
    # Another seed is another plan: nothing of the old one may be taken for it.
    evaluate.evaluate(*models, **options, candidates=2, seed=1)
    assert figures(evaluated)["fid_blur_0"] != before["fid_blur_0"]
    assert len(list((drawn / "unseen/codes").glob("part-*"))) == 1


def test_bf16_draws_nearly_what_fp32_does(
    finished: Finished, tiny_recipe: str, tmp_path: Path
) -> None:
    model, dvae = load_transformer(finished.dalle), load_dvae(finished.dvae)
    encoder = TokenData(finished.dataset, recipe_named(tiny_recipe)).encoder
    pictures = []
    for precision in ("fp32", "bf16"):
        painter = Painter(model, dvae, encoder, {"precision": precision})
        drawings = Drawings(painter, ["a cat", "a dog"], 64, tmp_path)
        drawings.draw()
        pictures.append(torch.cat(list(drawings.pictures(np.arange(128)))))
        model = model.bfloat16()
    assert pictures[0].shape == (128, 3, 16, 16)
    equal = (pictures[0] == pictures[1]).flatten(1).all(1).float().mean()
    assert 0.3 < equal < 1
