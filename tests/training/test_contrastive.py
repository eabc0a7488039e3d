import json
import math
import re
from pathlib import Path

import open_clip_peer
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from training.config import ContrastiveConfig, TowerConfig
from training.contrastive.checkpoint import load_embedder, model_id
from training.contrastive.images import MEAN, STD, normalised, square
from training.contrastive.open_clip_config import own_config, read_config
from training.contrastive.report import recall
from training.contrastive.rerank import load_ranker, reranked
from training.contrastive.text import CLIP_VOCABULARY, ClipText
from training.finished import ModelError
from training.models.contrastive import Contrastive, Embedded, contrastive_loss

CLIP_TEXT = {
    "context_length": 77,
    "vocab_size": CLIP_VOCABULARY,
    "width": 32,
    "heads": 2,
    "layers": 1,
}


def write_checkpoint(directory: Path, config: dict, weights: dict, name: str) -> Path:
    path = directory / name
    path.with_suffix(".json").write_text(json.dumps(config))
    if path.suffix == ".safetensors":
        save_file({n: w.contiguous() for n, w in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_towers_equal_open_clip_s_on_its_own_weights(quick_gelu: bool) -> None:
    config = open_clip_peer.TINY | {"quick_gelu": quick_gelu}
    peer = open_clip_peer.clip(config)
    ours = Contrastive(*read_config(config, Path("tiny.json"))).eval()
    ours.load_state_dict(peer.state_dict(), strict=True)
    images = torch.randn(5, 3, 32, 32)
    ids = torch.zeros(5, 12, dtype=torch.int64)
    for row in range(5):
        ids[row, : row + 3] = torch.randint(1, 88, (row + 3,))
        ids[row, row + 3] = 89
    with torch.no_grad():
        theirs, found = peer(images, ids), ours(images, ids)
    for one, other in zip(theirs, found, strict=True):
        assert torch.allclose(one, other, atol=2e-6)


def test_the_weights_are_named_as_in_every_plain_vision_transformer_of_open_clip() -> None:
    for name in ("ViT-B-32-quickgelu", "ViT-L-14", "ViT-H-14", "ViT-g-14"):
        path = open_clip_peer.directory() / "model_configs" / f"{name}.json"
        config = json.loads(path.read_text())
        with torch.device("meta"):
            peer = open_clip_peer.module("model").CLIP(**config)
            ours = Contrastive(*read_config(config, path))
        shapes = {n: t.shape for n, t in peer.state_dict().items()}
        assert {n: t.shape for n, t in ours.state_dict().items()} == shapes


def test_our_configuration_is_one_that_open_clip_reads() -> None:
    config = ContrastiveConfig(16, 16, 8, TowerConfig(32, 1, 4), TowerConfig(16, 2, 2, 2.0))
    model = Contrastive(config, 50, 10)
    written = json.loads(json.dumps(own_config(model)))["model_cfg"]
    assert read_config(written, Path("own")) == (config, 50, 10)
    open_clip_peer.clip(written).load_state_dict(model.state_dict(), strict=True)


def test_clip_s_tokenizer_gives_open_clip_s_ids() -> None:
    captions = [
        "a diagram", "", "The DOG's  ball,   he'll\tsay: don't!", "naïve café — 日本 🙂 10:30",
        "&amp;lt;b&gt; x",
        "schÃ¶n", "word " * 100, "ﬁne ½ ①②③ ‘quoted’ O’Clock", "a_b-c@d.e #12345",
        "\u0130stanbul \x00 x",
    ]  # fmt: skip
    theirs = open_clip_peer.module("tokenizer").tokenize(captions)
    assert torch.equal(ClipText()(captions), theirs)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "bin", "directory"])
def test_a_checkpoint_of_open_clip_ranks_pictures(tmp_path: Path, kind: str) -> None:
    config = open_clip_peer.TINY | {"text_cfg": CLIP_TEXT}
    peer = open_clip_peer.clip(config)
    weights = peer.state_dict()
    if kind == "directory":
        path = tmp_path
        save_file(weights, tmp_path / "open_clip_model.safetensors")
        whole = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(whole))
    else:
        if kind == "pt":  # as open_clip's own training leaves it
            prefixed = {f"module.{n}": w for n, w in weights.items()}
            weights = {"epoch": 3, "name": "x", "state_dict": prefixed}
        path = write_checkpoint(tmp_path, config, weights, f"tiny.{kind}")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    scores = load_ranker(path)(images, "a red heart")
    mean, std = ([0.5] * 3, [0.25] * 3) if kind == "directory" else (MEAN, STD)
    ids = open_clip_peer.module("tokenizer").tokenize(["a red heart"])
    with torch.no_grad():
        theirs = peer(normalised(images, mean, std), ids)
    assert torch.allclose(scores, (theirs[0] @ theirs[1].T)[:, 0], atol=1e-5)
    assert re.fullmatch(r".+ [0-9a-f]{12}", model_id(path))


class Payload:
    """What a hostile file would run."""

    def __reduce__(self) -> tuple:
        return (Path("pwned").touch, ())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pickle", "plain tensors"),
        ("truncated", "plain tensors"),
        ("list", "no named tensors"),
        ("missing", "Missing key"),
        ("config", "no open_clip configuration"),
        ("no config", "put its open_clip model config beside it"),
        ("resnet", "a ResNet"),
        ("other text tower", "hf_model_name"),
        ("vocabulary", "CLIP's own 49408"),
        ("nothing", "is no contrastive model; give"),
        ("dvae", "another model than a contrastive one"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(
    tmp_path: Path, damage: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = open_clip_peer.TINY | {"text_cfg": CLIP_TEXT}
    weights = dict(Contrastive(*read_config(config, Path("x"))).state_dict())
    text, vision = config["text_cfg"], config["vision_cfg"]
    if damage == "missing":
        del weights["ln_final.weight"]
    if damage == "config":
        config = {"embed_dim": 3}
    if damage == "resnet":
        config = config | {"vision_cfg": vision | {"layers": [3, 4, 6, 3]}}
    if damage == "other text tower":
        config = config | {"text_cfg": text | {"hf_model_name": "roberta"}}
    if damage == "vocabulary":
        config = config | {"text_cfg": text | {"vocab_size": 90}}
        weights["token_embedding.weight"] = torch.zeros(90, 32)
    path = write_checkpoint(tmp_path, config, weights, "tiny.pt")
    if damage == "pickle":
        torch.save({"x": Payload()}, path)
    if damage == "list":
        torch.save([1, 2], path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    if damage == "no config":
        path.with_suffix(".json").unlink()
    if damage == "nothing":
        path.unlink()
    if damage == "dvae":
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "_SUCCESS").write_text("{}")
        path = tmp_path
    with pytest.raises(ModelError, match=re.escape(message)):
        load_embedder(path)
    assert not (tmp_path / "pwned").exists()


def test_the_loss_of_shares_is_the_loss_of_the_whole_batch() -> None:
    images, captions = F.normalize(torch.randn(2, 6, 8), dim=-1)
    scale = torch.tensor(5.0)
    logits = scale * images @ captions.T
    labels = torch.arange(6)
    whole = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    shares = [
        contrastive_loss(
            Embedded(images[i : i + 3], captions[i : i + 3], scale), captions, images, i
        )
        for i in (0, 3)
    ]
    assert float(sum(shares) / 2) == pytest.approx(float(whole), rel=1e-5)


def test_the_temperature_begins_at_clip_s_and_is_limited() -> None:
    config = ContrastiveConfig(8, 8, 4, TowerConfig(8, 1, 1), TowerConfig(8, 1, 1))
    model = Contrastive(config, 10, 6)
    assert float(model.logit_scale.detach().exp()) == pytest.approx(1 / 0.07)
    torch.nn.init.constant_(model.logit_scale, 9.0)
    model.limit_scale()
    assert float(model.logit_scale.detach().exp()) == pytest.approx(100, rel=1e-5)


def test_recall_counts_ties_against_the_model() -> None:
    same = torch.ones(10, 4) / 2
    assert recall(same, same).image_to_text == (0.0, 0.0)
    own = torch.eye(10)
    found = recall(own, own)
    assert found.image_to_text == found.text_to_image == (1.0, 1.0)
    assert found.chance == (0.1, 0.5)
    # Each caption lies between its own picture and, nearer, the next one.
    captions = F.normalize(own + 1.1 * own.roll(1, 1), dim=-1)
    assert recall(own, captions).text_to_image == (0.0, 1.0)


def test_pictures_are_resized_by_the_short_side_and_cut_at_the_centre() -> None:
    wide = torch.zeros(1, 3, 20, 60, dtype=torch.uint8)
    wide[..., 20:40] = 200
    for picture in (wide, wide.mT):
        cut = square(picture, 10)
        assert cut.shape == (1, 3, 10, 10)
        assert int(cut[..., 1:-1, 1:-1].min()) > 190
    assert math.isclose(float(normalised(wide)[0, 0, 0, 0]), -MEAN[0] / STD[0], rel_tol=1e-5)


def test_candidates_are_put_in_the_order_of_their_scores() -> None:
    pictures = torch.arange(6, dtype=torch.uint8).view(2, 3, 1, 1, 1).expand(2, 3, 3, 4, 4)

    def rank(images: torch.Tensor, caption: str) -> torch.Tensor:
        wanted = {"low": -1.0, "middle": 0.0}[caption]
        value = images[:, 0, 0, 0].float()
        return value * wanted if wanted else -(value - 4).abs()

    ordered, scores = reranked(pictures, ["low", "middle"], rank)
    assert ordered[..., 0, 0, 0].tolist() == [[0, 1, 2], [4, 3, 5]]
    assert scores.tolist() == [[0, -1, -2], [0, -1, -1]]
