"""The paper's protocol by the real command: MS-COCO and CUB, overlap, reranking, kill -9."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from fetched_corpus import artwork, fetched_pairs, row
from PIL import Image
from reference_layouts import write_coco, write_cub
from safetensors.numpy import load_file
from tiny_training import Finished

from pipelines import parquet, schemas
from pipelines.curate.config import CurateConfig
from pipelines.curate.transform import curate_pairs
from pipelines.dedupe.config import DedupeConfig, Mode
from pipelines.dedupe.overlap import write_overlap
from pipelines.dedupe.reference_index import build_index
from pipelines.dedupe.transform import dedupe_pairs
from pipelines.layout import Layout
from pipelines.runners import Engine
from training import evaluate, recipes, train_contrastive
from training.contrastive.checkpoint import model_id
from training.contrastive.rerank import load_ranker
from training.drawing.sampling import pictures_of
from training.errors import InputError
from training.human.page import LISTING, read_pictures
from training.metrics import protocol
from training.metrics.coco import coco
from training.metrics.cub import cub
from training.metrics.drawings import Drawings, Painter
from training.metrics.features import load_network
from training.metrics.fidelity import Fidelity, blur_curve, compare
from training.metrics.overlap import copied_references, not_given
from training.models.loading import load_dvae, load_transformer
from training.recipes import recipe as recipe_named
from training.token_data import TokenData

CAPTIONS, CANDIDATES, JUDGED = 24, 64, 7
COPIED, DROPPED = 5, 3
DEDUPE = DedupeConfig(measured_references=8)


@pytest.fixture(scope="module")
def place(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference layouts, a contrastive model, and batches that met references.

    Batch `a` kept its copies, of the first references, and `b` dropped those of the last ones.
    """
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
    for pair, name in zip(rows, names[:COPIED], strict=False):
        pair["dup_of"], pair["dup_distance"] = f"coco/val2014/{name}", 3
    table = pq.read_table(part).from_pylist(rows, schemas.DEDUPED_PAIRS)
    parquet.write(str(part), table.to_batches(), schemas.DEDUPED_PAIRS)
    write_overlap(str(root / "batch=a"), [str(part)], [], "")
    # The last of the layout has no caption.
    copies = [(root / "coco/val2014" / name).read_bytes() for name in names[-DROPPED - 1 : -1]]
    deduplicated(root, copies)
    return root


def deduplicated(root: Path, copies: list[bytes]) -> None:
    """Crawl copies of references beside another picture, and drop them."""
    captions = [f"a drawing of {what} that was changed" for what in ("a face", "a cat", "a dog")]
    others = [("a red heart on a white ground", artwork()["red heart"])]
    found = [*zip(captions, copies, strict=True), *others]
    layout = Layout(str(root))
    fetched_pairs(layout, "b", [row(900 + i, *pair) for i, pair in enumerate(found)])
    curate = CurateConfig(min_side=32, min_bytes=100, short_side=32, encoding="png")
    curate_pairs("b", layout, curate, Engine())
    build_index(str(root / "coco"), layout, DEDUPE)
    assert DEDUPE.mode == Mode.DROP
    done = dedupe_pairs("b", layout, DEDUPE, Engine())
    assert dict(done.funnel.dropped) == {"reference_copy": len(copies)}
    assert done.rows == len(others)


def batches(place: Path) -> list[str]:
    return [str(place / "batch=a"), str(place / "deduped_pairs/batch=b")]


def arguments(finished: Finished, place: Path, output: Path) -> list[object]:
    return [
        *("--dalle", finished.dalle, "--dvae", finished.dvae, "--dataset", finished.dataset),
        *("--output", output, "--rerank", place / "contrastive"),
        *(word for directory in batches(place) for word in ("--pairs", directory)),
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
    met = COPIED + DROPPED
    assert found["coco_overlapping_pictures"] == met
    assert found["coco_no_overlap_pictures_compared"] == CAPTIONS - met
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


def test_copies_that_were_dropped_count_as_those_that_were_kept(
    evaluated: Path, place: Path
) -> None:
    kept, dropped = (copied_references([directory]) for directory in batches(place))
    assert (len(kept), len(dropped)) == (COPIED, DROPPED)
    assert copied_references(batches(place)) == kept | dropped
    assert "is not known which references they copy" not in (evaluated / "report.html").read_text()
    assert not_given(["a", "b"], batches(place)) == []
    assert not_given(["a", "b", "c"], batches(place)[:1]) == ["b", "c"]


def test_a_batch_without_its_list_of_references_is_named(place: Path, tmp_path: Path) -> None:
    batch = Path(shutil.copytree(place / "batch=a", tmp_path / "batch=a"))
    (batch / schemas.OVERLAP_FILE).unlink()
    with pytest.raises(InputError, match=r"is missing; remove .*batch=a and materialise deduped"):
        copied_references([str(batch)])


def test_figures_and_plots_name_network_reranker_and_number(evaluated: Path, place: Path) -> None:
    found = figures(evaluated)
    reranker = model_id(place / "contrastive")
    assert {found[f"{prefix}reranker"] for prefix in ("", "coco_", "cub_")} == {reranker}
    networks = {
        line["name"]: line["network"]
        for line in pq.read_table(evaluated / "evaluation.parquet").to_pylist()
    }
    for name, network in networks.items():
        compared = re.search(r"fid_|kid_|inception_score", name) is not None
        assert (network == "efficientnet-lite0") or not compared, name
        assert network is None or "nats" not in name, name
    sides = {
        "": {0: fidelity(pictures=24), 1: fidelity(pictures=24)},
        "no_overlap_": {0: fidelity(pictures=1600)},
    }
    for title, lines in protocol._panels(sides).items():
        labels = [line.label for line in lines]
        assert labels[:2] == ["drawn, 24 a side", "without overlapping references, 1,600 a side"]
        assert labels[2:] == (["reference, 24 pictures"] if title == "inception score" else [])


def test_the_report_tells_which_captions_it_rests_on(evaluated: Path, place: Path) -> None:
    page = (evaluated / "report.html").read_text()
    sets = coco(place / "coco", CAPTIONS, 16), cub(place / "cub", None, 16)
    for one in sets:
        for name, digest in one.sources.items():
            assert f"evaluation, {one.title}, {name}" in page
            assert digest in page


def fidelity(pictures: int) -> Fidelity:
    return Fidelity("network", pictures, 1.0, 1.0, 0.0, 2.0, 0.0, 3.0)


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
        for caption, own in zip(references.captions, codes, strict=True):
            drawn = pictures_of(dvae, torch.from_numpy(own[:first]))
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
    options = {"pairs": batches(place), "rerank": place / "contrastive", "pictures": 8}
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
