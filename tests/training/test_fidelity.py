import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from ignite.metrics import FID
from ignite.metrics import InceptionScore as PeerScore
from PIL import Image, ImageFilter
from torch import nn

from training.errors import InputError
from training.metrics.features import INCEPTION, Features, extract, load_network
from training.metrics.fidelity import (
    blur_curve,
    blurred,
    compare,
    inception_score,
    kernel_distance,
)
from training.metrics.inception import Inception


def features(rows: int, width: int = 24, shift: float = 0.0, seed: int = 0) -> Features:
    draw = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(width, width)) / width**0.5
    values = draw.normal(size=(rows, width)) @ mixing + shift
    logits = draw.normal(size=(rows, 11)) * 3
    return Features("test", values.astype(np.float32), logits.astype(np.float32))


class _Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_fid_agrees_with_a_peer_and_with_the_formula() -> None:
    drawn, real = features(400, shift=0.3, seed=1), features(400, seed=2)
    found = compare(drawn, real)
    peer = FID(num_features=24, feature_extractor=_Same())
    peer.update((torch.from_numpy(drawn.features), torch.from_numpy(real.features)))
    means = [side.features.astype(np.float64).mean(0) for side in (drawn, real)]
    spread = [np.cov(side.features.astype(np.float64), rowvar=False) for side in (drawn, real)]
    root = scipy.linalg.sqrtm(spread[0] @ spread[1]).real
    formula = ((means[0] - means[1]) ** 2).sum() + np.trace(spread[0] + spread[1] - 2 * root)
    assert found.fid == pytest.approx(formula, rel=1e-3)
    assert found.fid == pytest.approx(peer.compute(), rel=1e-3)
    assert compare(real, real).fid == pytest.approx(0, abs=1e-3)


def mmd(drawn: Features, reference: Features) -> float:
    """The unbiased squared distance under (x.y / d + 1)^3 (arXiv 1801.01401), on all pairs."""
    x, y = (side.features.astype(np.float64) for side in (drawn, reference))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    def among(a: np.ndarray) -> float:
        pairs = kernel(a, a)
        return float((pairs.sum() - np.trace(pairs)) / (len(a) * (len(a) - 1)))

    return among(x) + among(y) - 2 * float(kernel(x, y).mean())


def test_kid_agrees_with_the_formula() -> None:
    drawn, real = features(300, shift=0.3, seed=1), features(300, seed=2)
    formula = mmd(drawn, real)
    whole, spread = kernel_distance(drawn, real, subsets=1, size=300)
    assert whole == pytest.approx(formula, rel=1e-3)
    assert spread == 0
    # The mean over random subsets has the formula's value as its expectation.
    found = compare(drawn, real)
    assert abs(found.kid - formula) < 4 * found.kid_deviation / 100**0.5


def test_the_score_agrees_with_a_peer_and_with_the_formula() -> None:
    side = features(300, seed=3)
    peer = PeerScore(num_features=11, feature_extractor=nn.Softmax(1))
    peer.update(torch.from_numpy(side.logits))
    shares = scipy.special.softmax(side.logits.astype(np.float64), axis=1)
    divergence = (shares * np.log(shares / shares.mean(0))).sum(1)
    score, spread = inception_score(side, splits=1)
    assert score == pytest.approx(peer.compute(), rel=1e-3)
    assert score == pytest.approx(np.exp(divergence.mean()), rel=1e-3)
    assert spread == 0
    # The parts of ten splits see fewer pictures, so their score is lower.
    assert 0.8 * score < compare(side, side).inception_score < score
    same = Features("test", side.features, np.zeros((300, 11), np.float32))
    assert compare(same, same).inception_score == pytest.approx(1.0)


def test_kid_is_unbiased_where_fid_is_not() -> None:
    small = compare(features(60, seed=4), features(60, seed=5))
    large = compare(features(4000, seed=4), features(4000, seed=5))
    assert small.fid > 5 * large.fid
    assert abs(small.kid) < 2 * small.kid_deviation
    assert abs(large.kid) < 2 * large.kid_deviation
    moved = compare(features(400, shift=0.5, seed=4), features(400, seed=5))
    assert moved.kid > 10 * moved.kid_deviation


def test_figures_do_not_depend_on_what_ran_before() -> None:
    drawn, real = features(50, shift=0.1, seed=1), features(50, seed=2)
    first = compare(drawn, real)
    torch.rand(3)
    assert compare(drawn, real) == first


@pytest.mark.parametrize("rows", [(3, 4), (1, 1)])
def test_unequal_or_tiny_sets_are_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="both sides need the same number"):
        compare(features(rows[0]), features(rows[1]))


def test_two_networks_are_not_compared() -> None:
    other = Features("other", *(np.ones((5, 2), np.float32),) * 2)
    with pytest.raises(InputError, match="test and other"):
        compare(features(5), other)


def test_blur_is_pillows_and_radius_zero_changes_nothing() -> None:
    batch = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(blurred(batch, 0), batch)
    picture = Image.fromarray(batch[1].permute(1, 2, 0).numpy())
    expected = np.asarray(picture.filter(ImageFilter.GaussianBlur(2)))
    assert np.array_equal(blurred(batch, 2)[1].permute(1, 2, 0).numpy(), expected)


def test_blur_brings_noisy_copies_nearer() -> None:
    draw = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(24, 3, 4, 4, generator=draw), (64, 64), mode="bicubic"
    ).clamp(0, 1)
    noisy = (smooth + 0.3 * torch.randn(smooth.shape, generator=draw)).clamp(0, 1)
    sides = [[(x * 255).to(torch.uint8)] for x in (noisy, smooth)]
    network = load_network()
    drawn, real = (blur_curve(network, side, radii=(0, 4)) for side in sides)
    fids = {radius: compare(drawn[radius], real[radius]) for radius in (0, 4)}
    assert fids[4].fid < 0.5 * fids[0].fid
    assert fids[0].network == "efficientnet-lite0"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="does not hold the standard Inception weights"):
        load_network(path)
    torch.save(nn.Linear(2, 2), path)  # a whole pickled object, which must not be loaded
    with pytest.raises(InputError, match="does not hold the standard Inception weights"):
        load_network(path)


def test_the_networks_name_tells_its_weights(tmp_path: Path) -> None:
    network, path = Inception(), tmp_path / "weights.pth"
    picture = [torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)]
    names, found = [], []
    for _ in range(2):
        torch.save(network.state_dict(), path)
        loaded = load_network(path)
        found.append(extract(loaded, picture).logits)
        names.append(loaded.name)
        assert loaded.name == f"{INCEPTION}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        # Another network of the same shapes.
        with torch.no_grad():
            network.fc.weight.neg_()
    assert names[0] != names[1]
    assert np.array_equal(found[0], -found[1])
    sides = [Features(name, found[0], found[0]) for name in names]
    with pytest.raises(InputError, match=f"features of {names[0]} and {names[1]} cannot"):
        compare(*sides)


def test_no_picture_is_an_error() -> None:
    with pytest.raises(InputError, match="no picture"):
        extract(load_network(), [])


_PEER = """
import importlib.machinery, sys, types, torch
package = types.ModuleType("torch_fidelity")
package.__path__ = [sys.argv[1] + "/torch_fidelity"]
sys.modules["torch_fidelity"] = package
import torch_fidelity.feature_extractor_inceptionv3 as peer
from training.metrics.inception import Inception
torch.manual_seed(0)
ours = Inception().eval()
for module in ours.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5)
torch.save(ours.state_dict(), sys.argv[2])
theirs = peer.FeatureExtractorInceptionV3(
    "peer", ["2048", "logits_unbiased"], feature_extractor_weights_path=sys.argv[2]
)
for size in ((64, 64), (299, 299), (400, 320)):
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        for a, b in zip(ours(images), theirs(images), strict=True):
            assert a.shape == b.shape, (a.shape, b.shape)
            error = float((a - b).abs().max() / b.abs().max())
            assert error < 1e-5, (size, error)
print("equal")
"""


def test_inception_is_the_peers(tmp_path: Path) -> None:
    # torch-fidelity needs torchvision to be imported whole; its network alone does not.
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = ["install", "--no-deps", "--target", str(tmp_path), "torch-fidelity==0.4.0"]
    subprocess.run([*pip, *wheel], check=True, capture_output=True)
    program = [sys.executable, "-c", _PEER, str(tmp_path), str(tmp_path / "weights.pth")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr
